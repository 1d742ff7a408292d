//! Where the events of a watch go, and what happens to them on the way.

use hyper::body::{Bytes, Frame};
use tokio::sync::mpsc;

use super::body::{Piece, aborted};
use super::encode::gzip;
use crate::apiserver::faults::{Fault, Trouble};
use crate::apiserver::pause::pause;

/// The watch is over.
#[derive(Debug)]
pub(super) struct Ended;

/// Where the events of a watch go.
pub(super) struct Sink {
    pieces: mpsc::Sender<Piece>,
    has_gzip: bool,
    faults: Vec<Fault>,
    sent: usize,
}

impl Sink {
    pub(super) fn new(pieces: mpsc::Sender<Piece>, has_gzip: bool, faults: Vec<Fault>) -> Self {
        Self {
            pieces,
            has_gzip,
            faults,
            sent: 0,
        }
    }

    /// Waits until the client has gone.
    pub(super) async fn closed(&self) {
        self.pieces.closed().await;
    }

    /// Lets happen what happens before anything is sent.
    pub(super) async fn begin(&mut self) -> Result<(), Ended> {
        self.end_if_due().await
    }

    /// Sends a line.
    pub(super) async fn send(&mut self, line: Vec<u8>) -> Result<(), Ended> {
        let line = if self.has_gzip {
            gzip(&line)
        } else {
            line.into()
        };
        let middle = line.len() / 2;
        let mut copies = 1;
        for trouble in self.due() {
            match trouble {
                Trouble::Stall(duration) => pause(duration).await,
                Trouble::Repeat => copies += 1,
                Trouble::Split(duration) => {
                    self.piece(line.slice(..middle)).await?;
                    pause(duration).await;
                    self.piece(line.slice(middle..)).await?;
                    copies -= 1;
                }
                Trouble::TruncatedEvent => {
                    self.piece(line.slice(..middle)).await?;
                    return Err(Ended);
                }
                Trouble::HalfEvent => {
                    self.piece(line.slice(..middle)).await?;
                    return self.abort().await;
                }
                Trouble::Silence | Trouble::Close | Trouble::Abort => {}
            }
        }
        for _ in 0..copies {
            self.piece(line.clone()).await?;
        }
        self.sent += 1;
        self.end_if_due().await
    }

    /// What happens after as many events as were sent.
    fn due(&self) -> Vec<Trouble> {
        let due = self.faults.iter().filter_map(|fault| match fault {
            Fault::Stream { after, trouble } if *after == self.sent => Some(*trouble),
            _ => None,
        });
        due.collect()
    }

    async fn end_if_due(&mut self) -> Result<(), Ended> {
        for trouble in self.due() {
            match trouble {
                Trouble::Close => return Err(Ended),
                Trouble::Abort => return self.abort().await,
                Trouble::Silence => {
                    self.closed().await;
                    return Err(Ended);
                }
                _ => {}
            }
        }
        Ok(())
    }

    async fn piece(&mut self, bytes: Bytes) -> Result<(), Ended> {
        let piece = Ok(Frame::data(bytes));
        self.pieces.send(piece).await.map_err(|_gone| Ended)
    }

    async fn abort(&mut self) -> Result<(), Ended> {
        // A client that has gone already has what is wanted.
        let _ = self.pieces.send(Err(aborted())).await;
        Err(Ended)
    }
}
