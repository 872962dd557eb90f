// Division of rows into runs that one block adds up: at most `most` rows, all of one clip, so that no sum depends on how a step is divided into clips.
#pragma once
#include "device.cuh"

namespace {

struct Run {
    int begin, end;
};

// Run number `index` of `rows` rows in clips of `clip` rows.
__device__ __forceinline__ Run run_of(int index, int rows, int clip, int most) {
    int each = (clip + most - 1) / most, first = index / each * clip;
    int begin = first + index % each * most;
    return {begin, min(min(begin + most, first + clip), rows)};
}

}  // namespace
