//! From a picture to a view's planes in one pass: bicubic resize, crop, normalise. Pure.
