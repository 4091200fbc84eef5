//! What both programs do alike at the terminal: failures and exit codes, where keys and stores are.

pub mod failure;
pub mod keys;
