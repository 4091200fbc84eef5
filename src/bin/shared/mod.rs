//! What both programs do alike at the terminal: failures and exit codes, sizes, where keys and stores are.

pub mod failure;
pub mod keys;
pub mod size;
