//! What is wrong with a store, and how bad that is.

use serde::Serialize;

use crate::error::Error;
use crate::name::ObjectName;

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// What an interrupted command or a crash leaves behind. Costs room at
    /// most.
    Leftover,
    /// Something that a volume or snapshot needs is not as it was written.
    Damage,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    pub severity: Severity,
    /// The object that is missing, damaged or left over.
    pub object: String,
    /// The volume or snapshot that needs it, as people call it.
    pub owner: Option<String>,
    /// What is wrong and what to do.
    pub sentence: String,
}

/// Something could not be read on the way from the roots.
#[derive(Debug)]
pub(super) struct Failure {
    pub owner: Option<String>,
    pub error: Error,
    pub object: String,
    /// The head or snapshot that needs it: when that is gone, so is the need.
    pub root: Option<ObjectName>,
}

/// Decides whether to go on: an error ends the reading.
pub(super) type OnFailure<'a> = dyn FnMut(Failure) -> crate::error::Result<()> + 'a;
