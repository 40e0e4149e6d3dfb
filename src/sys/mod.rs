//! System calls and memory that safe Rust cannot express. Everything unsafe
//! outside the C interface is in this folder.

#![allow(unsafe_code)]

pub mod asker;
pub mod curl;
pub mod file;
pub mod gfapi;
pub mod iobuf;
#[allow(missing_debug_implementations, non_camel_case_types, unsafe_op_in_unsafe_fn)]
#[allow(clippy::all, clippy::undocumented_unsafe_blocks)]
mod libgfapi;
#[allow(missing_debug_implementations, non_camel_case_types, unsafe_op_in_unsafe_fn)]
#[allow(clippy::all, clippy::undocumented_unsafe_blocks)]
mod librados;
pub mod rados;
mod rados_each;
mod rados_values;
pub mod signal;
pub mod uring;
