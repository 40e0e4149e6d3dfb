//! System calls and memory that safe Rust cannot express. Everything unsafe
//! outside the C interface is in this folder.

#![allow(unsafe_code)]

pub mod file;
pub mod iobuf;
pub mod signal;
pub mod uring;
