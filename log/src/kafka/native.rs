//! Ownership of librdkafka's objects. Only this file, `batch` and `topic_id` call librdkafka
//! directly, because rdkafka's safe interface lacks these calls.

// For the calls named above.
#![allow(unsafe_code)]

use std::ptr::NonNull;

use rdkafka::error::KafkaError;

/// An object of librdkafka that must be freed.
pub(super) struct Owned<T> {
    pointer: NonNull<T>,
    free: unsafe extern "C" fn(*mut T),
}

impl<T> Owned<T> {
    pub(super) fn new(
        pointer: *mut T,
        free: unsafe extern "C" fn(*mut T),
    ) -> Result<Self, KafkaError> {
        let none = || KafkaError::AdminOpCreation("librdkafka is out of memory".into());
        NonNull::new(pointer)
            .map(|pointer| Self { pointer, free })
            .ok_or_else(none)
    }

    pub(super) fn pointer(&self) -> *mut T {
        self.pointer.as_ptr()
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: `free` is the function that librdkafka documents for the object, and this is its
        // only call.
        unsafe { (self.free)(self.pointer.as_ptr()) }
    }
}
