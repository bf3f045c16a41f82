//! Sessions through the proxy: who enters, how their bytes come to Telegram and back, and what reloads and upgrades leave
//! of them.

#[path = "../support/mod.rs"]
mod support;

mod crowd;
mod direct;
mod failing_cover;
mod front;
mod harness;
mod middle;
mod misuse;
mod names;
mod reload;
mod replay;
mod routes;
mod stand_in;
mod upgrade;
mod upstream;
mod users;
mod web;
mod web_front;
mod web_page;
