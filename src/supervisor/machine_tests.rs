//! The machine's tests: every transition by hand, and a search for counter-examples.
//!
//! [`hand`] tells the machine one fact at a time and hands back what it asks for; the tests by hand
//! compare that with what is expected, word for word. [`world`] plays the driver, the child and the
//! clock as unkindly as it may; [`properties`] lets it run and looks at what must always hold.

mod coming_up;
mod exits;
mod hand;
mod properties;
mod recovery;
mod restarts;
mod stops;
mod watchdog;
mod world;
