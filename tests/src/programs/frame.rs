//! What a program is run on.

/// A frame, and what is known of it apart from its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// Its bytes.
    pub bytes: &'a [u8],
    /// Payload of each segment, if a device has left a TCP packet whole; 0 if none has.
    pub gso_size: u32,
    /// Whether the device has summed the packet, and the kernel keeps the sum (tc only).
    pub summed: bool,
    /// Whether the packet came in by the same device (tc only).
    pub returns: bool,
    /// The packet's mark; 0 is none (tc only).
    pub mark: u32,
}

impl<'a> Frame<'a> {
    /// A frame of which nothing else is known.
    #[must_use]
    pub fn of(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            gso_size: 0,
            summed: false,
            returns: false,
            mark: 0,
        }
    }
}
