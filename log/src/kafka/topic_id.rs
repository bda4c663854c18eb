//! The id of a topic. A topic that was deleted and created again under its name has another id, and
//! the offsets of one mean nothing in the other.
//!
//! rdkafka's safe interface does not return it; librdkafka does (`DescribeTopics`). Each pointer is
//! checked before its use, and each object that must be freed belongs to an [`Owned`].

// For the calls of `DescribeTopics`.
#![allow(unsafe_code)]

use std::{
    ffi::{CStr, CString},
    time::{Duration, Instant},
};

use rdkafka::{
    bindings as native,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::{IsError, KafkaError, RDKafkaErrorCode},
};

use super::native::Owned;

/// Asks the brokers. `None` if they have no topic ids: Kafka before 2.8, and some compatible
/// brokers.
pub(super) fn read<C: ConsumerContext>(
    client: &BaseConsumer<C>,
    topic: &str,
    patience: Duration,
) -> Result<Option<String>, KafkaError> {
    let deadline = Instant::now() + patience;
    let name = CString::new(topic)?;
    let handle = client.client().native_ptr();
    let patience_ms = |left: Duration| i32::try_from(left.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: `handle` is a live client for as long as `client` is borrowed, and everything made
    // from it here is freed before that ends. Declared first, freed last: the queue outlives the
    // event that came out of it.
    let queue = Owned::new(
        unsafe { native::rd_kafka_queue_new(handle) },
        native::rd_kafka_queue_destroy,
    )?;
    // SAFETY: as above.
    let options = unsafe {
        native::rd_kafka_AdminOptions_new(
            handle,
            native::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS,
        )
    };
    let options = Owned::new(options, native::rd_kafka_AdminOptions_destroy)?;
    // SAFETY: the options are live; a null text of size 0 says that no text of an error is wanted.
    let set = unsafe {
        native::rd_kafka_AdminOptions_set_request_timeout(
            options.pointer(),
            patience_ms(patience),
            std::ptr::null_mut(),
            0,
        )
    };
    if set.is_error() {
        return Err(KafkaError::AdminOp(set.into()));
    }
    let mut names = [name.as_ptr()];
    // SAFETY: one pointer to a text that ends in zero; the collection copies it.
    let topics =
        unsafe { native::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len()) };
    let topics = Owned::new(topics, native::rd_kafka_TopicCollection_destroy)?;
    // SAFETY: all four are live; librdkafka copies topics and options, and answers into the queue.
    unsafe {
        native::rd_kafka_DescribeTopics(
            handle,
            topics.pointer(),
            options.pointer(),
            queue.pointer(),
        )
    };
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // SAFETY: the queue is live. What comes out belongs to us.
        let event = unsafe { native::rd_kafka_queue_poll(queue.pointer(), patience_ms(left)) };
        if event.is_null() {
            // Nothing within the time.
            return Err(KafkaError::AdminOp(RDKafkaErrorCode::OperationTimedOut));
        }
        let event = Owned::new(event, native::rd_kafka_event_destroy)?;
        // SAFETY: the event is live.
        if unsafe { native::rd_kafka_event_type(event.pointer()) }
            == native::RD_KAFKA_EVENT_DESCRIBETOPICS_RESULT
        {
            return id_in(&event);
        }
    }
}

/// The id in the answer about one topic.
fn id_in(event: &Owned<native::rd_kafka_event_t>) -> Result<Option<String>, KafkaError> {
    // SAFETY: the event is live; whatever is taken out of it below belongs to it, and is not used
    // after this function.
    let failed = unsafe { native::rd_kafka_event_error(event.pointer()) };
    if failed.is_error() {
        return match RDKafkaErrorCode::from(failed) {
            RDKafkaErrorCode::UnsupportedFeature => Ok(None),
            code => Err(KafkaError::AdminOp(code)),
        };
    }
    let mut count = 0;
    // SAFETY: the event is of the type that holds such a result, or the result is null; `count` is
    // told how many there are.
    let topics = unsafe {
        let result = native::rd_kafka_event_DescribeTopics_result(event.pointer());
        if result.is_null() {
            std::ptr::null_mut()
        } else {
            native::rd_kafka_DescribeTopics_result_topics(result, &raw mut count)
        }
    };
    if topics.is_null() || count != 1 {
        return Err(KafkaError::AdminOpCreation(
            "the answer does not describe exactly one topic".into(),
        ));
    }
    // SAFETY: there is one.
    let topic = unsafe { *topics };
    // SAFETY: a description is live as long as its event; its error may be null, which stands for
    // none.
    let failed = unsafe {
        let error = native::rd_kafka_TopicDescription_error(topic);
        if error.is_null() {
            native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR
        } else {
            native::rd_kafka_error_code(error)
        }
    };
    if failed.is_error() {
        return Err(KafkaError::AdminOp(failed.into()));
    }
    // SAFETY: an id is live as long as its description, and so is its text; both may be null.
    unsafe {
        let id = native::rd_kafka_TopicDescription_topic_id(topic);
        if id.is_null()
            || (
                native::rd_kafka_Uuid_most_significant_bits(id),
                native::rd_kafka_Uuid_least_significant_bits(id),
            ) == (0, 0)
        {
            return Ok(None);
        }
        let text = native::rd_kafka_Uuid_base64str(id);
        Ok(if text.is_null() {
            None
        } else {
            Some(CStr::from_ptr(text).to_string_lossy().into_owned())
        })
    }
}
