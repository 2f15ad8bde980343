//! Accepted means kept: what came in and what goes out, on disk until it is done with.
//!
//! ```text
//!   message:  accepted ──▶ answered          one transaction with its replies
//!                 └──────▶ dead              older than the TTL, or the agent gave up on it
//!
//!   reply:    prepared ──▶ started ──▶ done
//!                 ▲           ├──────▶ prepared      it certainly did not arrive
//!                 │           └──────▶ unknown ──▶ prepared (resend) or dead
//!                 └─ held: a notice for after the next start
//! ```

pub mod storage;
