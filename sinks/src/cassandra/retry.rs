//! Sends one statement a few times before the whole call counts as unanswered.
//!
//! A node that is cut off from the other nodes, but not from us, answers that it finds no quorum.
//! The driver keeps sending it a share of the statements. A call of a hundred statements would then
//! never succeed as a whole, however often the caller repeats it. Each single statement succeeds
//! soon, because the driver draws another replica at random for each attempt.
//!
//! Statements on bars may be sent twice, because they carry their write timestamps. A
//! compare-and-set may not, and does not use this function: its outcome is read first.

use std::time::Duration;

use tapeflow_protocol::StoreError;

/// The limit of attempts. With one bad replica of three, six attempts all hit it for one statement
/// in 729.
const TRIES: u32 = 6;
/// The pause after the first attempt. It grows by this much each time.
const PAUSE: Duration = Duration::from_millis(10);

/// Returns the answer, or the error of the last attempt. An error that no retry can correct is
/// returned at once.
pub(super) async fn retry<T, F: Future<Output = Result<T, StoreError>>>(
    mut send: impl FnMut() -> F,
) -> Result<T, StoreError> {
    let mut tries = 1;
    loop {
        match send().await {
            Err(StoreError::Unavailable(_)) if tries < TRIES => {
                tokio::time::sleep(PAUSE * tries).await;
                tries += 1;
            }
            answer => return answer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The result and the number of attempts, if these are the answers.
    fn sent(mut answers: Vec<Result<u8, StoreError>>) -> (Result<u8, StoreError>, usize) {
        answers.reverse();
        let all = answers.len();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime");
        let answer = runtime.block_on(retry(|| {
            std::future::ready(answers.pop().expect("no further try"))
        }));
        (answer, all - answers.len())
    }

    #[test]
    fn a_statement_is_sent_again_while_there_is_no_quorum_and_not_for_ever() {
        let silent = || Err(StoreError::Unavailable("no quorum".into()));
        assert!(matches!(sent(vec![Ok(1), Ok(2)]), (Ok(1), 1)));
        assert!(matches!(sent(vec![silent(), silent(), Ok(3)]), (Ok(3), 3)));
        assert!(matches!(
            sent((0..9).map(|_| silent()).collect()),
            (Err(StoreError::Unavailable(_)), 6)
        ));
        assert!(matches!(
            sent(vec![
                silent(),
                Err(StoreError::Broken("no such table".into())),
                Ok(1)
            ]),
            (Err(StoreError::Broken(_)), 2)
        ));
    }
}
