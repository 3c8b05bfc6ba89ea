//! The command `callbackd`.

fn main() {}
