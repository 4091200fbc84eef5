//! What both programs do alike at the terminal: failures and exit codes, where keys, stores and block manifests are, pages about
//! themselves, logs, and reports of waits.

pub mod completion;
pub mod failure;
pub mod files;
pub mod help;
pub mod keys;
pub mod logs;
pub mod manifests;
pub mod memory;
pub mod pages;
pub mod settings;
pub mod size;
pub mod stdout;
pub mod terminal;
pub mod version;
pub mod waits;
