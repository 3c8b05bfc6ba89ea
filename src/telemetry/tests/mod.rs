//! Facts go in as the worker records them; what comes out is what operators see.

mod captured;
mod circuits;
mod lines;
mod replies;
mod scene;
mod secrecy;
mod series;
mod writing;
