//! Ceph's C library, third part: several requests that are sent one after another
//! and waited for together, which costs about as long as one of them.

use std::ptr::null_mut;

use super::librados::{rados_completion_t, rados_omap_iter_t, rados_read_op_t, Librados};
use super::rados::{answer, text, Answer, Pool, WriteOp, FULL_IS_AN_ERROR};
use super::rados_values::{taken, Values};

/// A request that may have been sent. It is waited for at the latest when this is
/// dropped, so that what the library writes the answer to outlives it.
struct Sent {
    library: &'static Librados,
    completion: rados_completion_t,
    /// Negative: it was not sent, and why.
    sent: libc::c_int,
}

impl Sent {
    fn by(library: &'static Librados, send: impl FnOnce(rados_completion_t) -> libc::c_int) -> Sent {
        let mut completion = null_mut();
        // SAFETY: nobody is called back, and the place lives.
        let made = unsafe { library.rados_aio_create_completion2(null_mut(), None, &mut completion) };
        let sent = if made < 0 { made } else { send(completion) };
        Sent { library, completion, sent }
    }

    /// Returns when the library does nothing more with the request.
    fn wait(&self) -> libc::c_int {
        if self.sent < 0 {
            return self.sent;
        }
        // SAFETY: the completion is ours until `drop`.
        unsafe {
            self.library.rados_aio_wait_for_complete(self.completion);
            self.library.rados_aio_get_return_value(self.completion)
        }
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        self.wait();
        if !self.completion.is_null() {
            // SAFETY: the request is over, and this is the only one to release it.
            unsafe { self.library.rados_aio_release(self.completion) };
        }
    }
}

/// A question for values, with the places of its answer. Its memory stays where it
/// is until the request is over: it is boxed, and `sent` is dropped first.
struct Question {
    sent: Option<Sent>,
    library: &'static Librados,
    op: rados_read_op_t,
    iterator: rados_omap_iter_t,
    more: u8,
    result: libc::c_int,
}

impl Drop for Question {
    fn drop(&mut self) {
        self.sent = None;
        // SAFETY: the request is over; an iterator that nobody took is still ours.
        unsafe {
            self.library.rados_release_read_op(self.op);
            if !self.iterator.is_null() {
                self.library.rados_omap_get_end(self.iterator);
            }
        }
    }
}

impl Question {
    fn ask(pool: &Pool, object: &str, prefix: &str, count_max: usize) -> Box<Question> {
        let library = pool.client.library;
        let (object, after, prefix) = (text(object), text(""), text(prefix));
        let mut question = Box::new(Question {
            sent: None,
            library,
            // SAFETY: it has no arguments; freed by `drop`.
            op: unsafe { library.rados_create_read_op() },
            iterator: null_mut(),
            more: 0,
            result: 0,
        });
        let Question { op, iterator, more, result, .. } = &mut *question;
        // SAFETY: the places of the answer are in the box, which waits for the
        // request before it goes; both texts are copied before this returns.
        unsafe {
            let count = count_max as u64;
            library.rados_read_op_omap_get_vals2(
                *op,
                after.as_ptr(),
                prefix.as_ptr(),
                count,
                iterator,
                more,
                result,
            );
        }
        let op = question.op;
        question.sent = Some(Sent::by(library, |completion| {
            // SAFETY: the operation lives as long as the question; the name is copied.
            unsafe { library.rados_aio_read_op_operate(op, pool.io, completion, object.as_ptr(), 0) }
        }));
        question
    }

    fn answer(&mut self) -> Answer<(Values, bool)> {
        let done = self.sent.as_ref().map_or(-libc::EIO, Sent::wait);
        let iterator = std::mem::replace(&mut self.iterator, null_mut());
        let values = taken(self.library, done, self.result, iterator)?;
        Ok((values, self.more != 0))
    }
}

impl Pool {
    /// The first values of each object whose keys begin with its prefix, at most
    /// `count_max`, and whether there are more. An object that is not there has none.
    pub fn values_of_each(&self, asked: &[(String, &str)], count_max: usize) -> Vec<Answer<(Values, bool)>> {
        let ask = |(object, prefix): &(String, &str)| Question::ask(self, object, prefix, count_max);
        let mut questions: Vec<Box<Question>> = asked.iter().map(ask).collect();
        questions.iter_mut().map(|question| question.answer()).collect()
    }

    /// As `write`, in no order.
    pub fn write_each(&self, operations: &[(String, WriteOp)]) -> Vec<Answer<()>> {
        let library = self.client.library;
        let send = |(object, op): &(String, WriteOp)| {
            let object = text(object);
            Sent::by(library, |completion| {
                // SAFETY: the library copies operation and name before it returns.
                unsafe {
                    library.rados_aio_write_op_operate(
                        op.op,
                        self.io,
                        completion,
                        object.as_ptr(),
                        null_mut(),
                        FULL_IS_AN_ERROR,
                    )
                }
            })
        };
        let sent: Vec<Sent> = operations.iter().map(send).collect();
        sent.iter().map(|sent| answer(sent.wait()).map(drop)).collect()
    }
}
