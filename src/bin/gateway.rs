//! `lockkeeper-gateway`: the reference gateway.

fn main() {}
