//! AMX's instructions in software, for tests on CPUs without the matrix unit: each one raises SIGILL there, whose handler computes it.
//!
//! Invariant: only the instructions and addresses that this module's neighbours use are known; any other one ends the process, as it would without this.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};

use libc::{c_int, c_void, siginfo_t, ucontext_t};

use super::{ROW_BYTES, SIDE, Shapes};

/// Whether the emulator is installed.
static INSTALLED: AtomicBool = AtomicBool::new(false);

/// Installs the emulator: on a CPU with the matrix unit nothing ever calls it.
pub(in crate::ops) fn install() {
    // SAFETY: the action is a valid one; the handler touches only its own thread's registers, memory and tiles.
    let result = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handle as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
        libc::sigaction(libc::SIGILL, &raw const action, std::ptr::null_mut())
    };
    INSTALLED.store(result == 0, Ordering::Relaxed);
}

/// Whether the unit's instructions can be executed without the unit.
pub(in crate::ops) fn is_installed() -> bool {
    INSTALLED.load(Ordering::Relaxed)
}

/// One register: 16 rows of 16 words.
type Tile = [[u32; SIDE]; SIDE];

/// The registers of a thread, and their shapes.
struct Tiles {
    tiles: [Tile; 8],
    rows: [u8; 8],
    row_bytes: [u16; 8],
}

thread_local! {
    static TILES: RefCell<Tiles> = const {
        RefCell::new(Tiles { tiles: [[[0; SIDE]; SIDE]; 8], rows: [0; 8], row_bytes: [0; 8] })
    };
}

extern "C" fn handle(_: c_int, _: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes the interrupted thread's context, and its instruction pointer is that of a readable instruction.
    unsafe {
        let registers = &mut (*context.cast::<ucontext_t>()).uc_mcontext.gregs;
        let at = registers[libc::REG_RIP as usize] as usize as *const u8;
        let code: [u8; 12] = std::array::from_fn(|i| at.wrapping_add(i).read_volatile());
        let done = TILES.with_borrow_mut(|tiles| execute(code, registers, tiles));
        match done {
            Some(length) => registers[libc::REG_RIP as usize] += length as i64,
            None => libc::abort(),
        }
    }
}

/// General registers by their number in an instruction.
const GENERAL: [c_int; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

/// An address in memory: the first byte, and the bytes between rows.
struct Address {
    at: *mut u8,
    apart: usize,
    /// Bytes of the instruction behind its fifth.
    length: usize,
}

/// Address that an instruction's bytes from the fifth on denote, without one relative to the instruction.
fn address(code: &[u8; 12], registers: &[i64; 23]) -> Option<Address> {
    let (x, b) = (code[1] & 0x40 == 0, code[1] & 0x20 == 0);
    let get = |number: u8, upper: bool| {
        let number = usize::from(number) + if upper { 8 } else { 0 };
        registers[GENERAL[number] as usize] as usize
    };
    let (mode, base) = (code[4] >> 6, code[4] & 7);
    let (base, apart, mut length) = if base == 4 {
        let sib = code[5];
        let index = sib >> 3 & 7;
        let apart = if index == 4 && !x {
            0
        } else {
            get(index, x) << (sib >> 6)
        };
        (sib & 7, apart, 1)
    } else {
        (base, 0, 0)
    };
    if mode == 0 && base == 5 {
        return None;
    }
    let more = &code[5 + length..];
    let offset = match mode {
        0 => 0,
        1 => {
            length += 1;
            i64::from(more[0] as i8)
        }
        2 => {
            length += 4;
            i64::from(i32::from_le_bytes([more[0], more[1], more[2], more[3]]))
        }
        _ => return None,
    };
    let at = get(base, b).wrapping_add(offset as usize);
    Some(Address {
        at: at as *mut u8,
        apart,
        length,
    })
}

/// Executes an instruction; returns its length, or `None` if it is none of those that are known.
///
/// # Safety
/// The registers are those that the instruction would have read.
unsafe fn execute(code: [u8; 12], registers: &[i64; 23], tiles: &mut Tiles) -> Option<usize> {
    // Three bytes of VEX with the map 0F38 and 128 bits.
    if code[0] != 0xC4 || code[1] & 0x1F != 2 || code[2] & 0x84 != 0 {
        return None;
    }
    let (prefix, opcode) = (code[2] & 3, code[3]);
    let reg = usize::from(code[4] >> 3 & 7);
    let (rm, third) = (usize::from(code[4] & 7), usize::from(!code[2] >> 3 & 7));
    let is_register = code[4] >> 6 == 3;
    match (opcode, prefix, is_register) {
        (0x49, 3, true) => {
            tiles.tiles[reg] = [[0; SIDE]; SIDE];
            Some(5)
        }
        (0x49, 0, false) => {
            let from = address(&code, registers)?;
            // SAFETY: promised by the caller.
            let shapes = unsafe { from.at.cast::<Shapes>().read_unaligned() };
            tiles.rows.copy_from_slice(&shapes.rows[..8]);
            tiles.row_bytes.copy_from_slice(&shapes.row_bytes[..8]);
            Some(5 + from.length)
        }
        // Loads, with two hints.
        (0x4B, 1 | 3, false) => {
            let from = address(&code, registers)?;
            assert_eq!(usize::from(tiles.row_bytes[reg]), ROW_BYTES);
            tiles.tiles[reg] = [[0; SIDE]; SIDE];
            for row in 0..usize::from(tiles.rows[reg]) {
                let at = from.at.wrapping_add(row * from.apart).cast::<[u32; SIDE]>();
                // SAFETY: promised by the caller.
                tiles.tiles[reg][row] = unsafe { at.read_unaligned() };
            }
            Some(5 + from.length)
        }
        (0x4B, 2, false) => {
            let to = address(&code, registers)?;
            for row in 0..usize::from(tiles.rows[reg]) {
                let at = to.at.wrapping_add(row * to.apart).cast::<[u32; SIDE]>();
                // SAFETY: promised by the caller.
                unsafe { at.write_unaligned(tiles.tiles[reg][row]) };
            }
            Some(5 + to.length)
        }
        (0x5C, 2, true) => {
            bf16s(tiles, reg, rm, third);
            Some(5)
        }
        (0x5E, 1, true) => {
            int8s(tiles, reg, rm, third);
            Some(5)
        }
        _ => None,
    }
}

/// The two bfloat16 of a word, with subnormal ones as 0.
fn halves(word: u32) -> [f32; 2] {
    [word << 16, word & 0xFFFF_0000].map(|bits| {
        let value = f32::from_bits(bits);
        if value.is_subnormal() { 0.0 } else { value }
    })
}

/// Adds the products of even and of odd numbers, each in their order, to the sums.
fn bf16s(tiles: &mut Tiles, to: usize, left: usize, right: usize) {
    let rows = usize::from(tiles.rows[to]);
    let (left, right) = (tiles.tiles[left], tiles.tiles[right]);
    for (left, sums) in left.iter().zip(&mut tiles.tiles[to]).take(rows) {
        let mut both = [[0.0_f32; 2]; SIDE];
        for (&word, right) in left.iter().zip(&right) {
            let value = halves(word);
            for (sum, &word) in both.iter_mut().zip(right) {
                let other = halves(word);
                *sum = std::array::from_fn(|i| value[i].mul_add(other[i], sum[i]));
            }
        }
        for (sum, both) in sums.iter_mut().zip(both) {
            *sum = (f32::from_bits(*sum) + (both[0] + both[1])).to_bits();
        }
    }
}

/// Adds the products of unsigned bytes on the left and signed ones on the right.
fn int8s(tiles: &mut Tiles, to: usize, left: usize, right: usize) {
    let rows = usize::from(tiles.rows[to]);
    let (left, right) = (tiles.tiles[left], tiles.tiles[right]);
    for (left, sums) in left.iter().zip(&mut tiles.tiles[to]).take(rows) {
        for (word, right) in left.iter().zip(&right) {
            for (sum, other) in sums.iter_mut().zip(right) {
                let products = word.to_le_bytes().into_iter().zip(other.to_le_bytes());
                let more: i32 = products
                    .map(|(a, b)| i32::from(a) * i32::from(b as i8))
                    .sum();
                *sum = sum.wrapping_add(more as u32);
            }
        }
    }
}
