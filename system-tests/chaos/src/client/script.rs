//! The remaining steps of an errand: which one is due, and how the body is divided so that none is missed.

use std::collections::VecDeque;
use std::future::pending;
use std::sync::Arc;

use tokio::sync::Notify;
use tokio::time::sleep;

use super::Errand;
use crate::body::Body;
use crate::log::Log;
use crate::plan::{Act, Manner, Moment, Side, Step};

/// The remaining steps of an errand.
pub(super) struct Script {
    steps: VecDeque<Step>,
    waits: Arc<Notify>,
    side: Side,
    log: Log,
}

impl Script {
    pub(super) fn new(errand: &Errand) -> Self {
        Self {
            steps: errand.steps.iter().copied().collect(),
            waits: Arc::clone(&errand.waits),
            side: errand.side,
            log: errand.log.clone(),
        }
    }

    /// The offset of the next step.
    pub(super) fn next_offset(&self) -> Option<u64> {
        match self.steps.front()?.moment {
            Moment::Body(offset) | Moment::InChunk(offset) => Some(offset),
            Moment::End | Moment::Waiting | Moment::After(_) => None,
        }
    }

    /// The next piece of a body of which `sent` bytes are sent. It ends before the next step.
    pub(super) fn piece(&self, body: &Body, sent: u64, most: usize) -> Vec<u8> {
        let next = self.next_offset().filter(|offset| *offset > sent);
        let before = next.and_then(|offset| usize::try_from(offset - sent).ok()).unwrap_or(usize::MAX);
        body.piece(sent, most.min(before))
    }

    /// The step that is due after this number of bytes.
    pub(super) fn due(&mut self, bytes: u64) -> Option<Act> {
        self.due_if(|moment| matches!(moment, Moment::Body(offset) if offset <= bytes))
    }

    /// The step that is due after the size line of the chunk that begins with this byte.
    pub(super) fn due_in_chunk(&mut self, bytes: u64) -> Option<Act> {
        self.due_if(|moment| moment == Moment::InChunk(bytes))
    }

    /// The step that is due after the whole message.
    pub(super) fn due_at_end(&mut self) -> Option<Act> {
        self.due_if(|moment| moment == Moment::End)
    }

    fn due_if(&mut self, is_now: impl Fn(Moment) -> bool) -> Option<Act> {
        let step = *self.steps.front().filter(|step| is_now(step.moment))?;
        self.steps.pop_front();
        self.log.note(self.side, step.to_string());
        Some(step.act)
    }

    /// Waits for a departure that does not depend on bytes.
    pub(super) fn departure(&self) -> impl Future<Output = Manner> + use<> {
        let (step, waits) = (self.steps.front().copied(), Arc::clone(&self.waits));
        let (side, log) = (self.side, self.log.clone());
        async move {
            let Some(Step { moment, act: Act::Leave(manner) }) = step else { return pending().await };
            match moment {
                Moment::Waiting => waits.notified().await,
                Moment::After(time) => sleep(time).await,
                Moment::Body(_) | Moment::InChunk(_) | Moment::End => pending().await,
            }
            log.note(side, format!("leaves ({manner:?})"));
            manner
        }
    }
}
