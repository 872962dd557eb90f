//! Turns a configuration into a running server: binds first, wires the handles, owns the drain order.
