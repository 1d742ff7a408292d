//! Bodies of answers.

use std::io;

use futures::stream;
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Bytes, Frame};
use tokio::sync::mpsc;

/// The body of an answer; an error ends its connection.
pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A piece of a body.
pub(super) type Piece = Result<Frame<Bytes>, io::Error>;

/// A body that is there as a whole.
pub(super) fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// A body of which only a beginning comes, and then the connection ends.
pub(super) fn cut(beginning: Bytes) -> Body {
    let pieces = [Ok(Frame::data(beginning)), Err(aborted())];
    StreamBody::new(stream::iter(pieces)).boxed_unsync()
}

/// A body whose pieces come as they are sent.
pub(super) fn streamed(receiver: mpsc::Receiver<Piece>) -> Body {
    let pieces = stream::unfold(receiver, async |mut receiver| {
        receiver.recv().await.map(|piece| (piece, receiver))
    });
    StreamBody::new(pieces).boxed_unsync()
}

/// The error that ends a connection on purpose.
pub(super) fn aborted() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "cut off on purpose")
}
