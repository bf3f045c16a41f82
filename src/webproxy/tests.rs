//! The sequences of the vectors, run through the pure parts as a server would.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use serde_json::Value;

use super::budget::Budget;
use super::capability::{Index, Place};
use super::frame::{HELLO, WELCOME};
use super::request::{Call, Head, Request, classify};
use super::session::{Down, End, Limits, Message, Mode, Session, SocketId, Up};
use super::{Token, TokenKey, TokenKind};
use crate::auth::SecretTag;
use crate::fixtures::{unhex, web_vectors};

const HOST: &str = "proxy.example.com";

struct Answer {
    status: u64,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

fn answer(status: u64, headers: Vec<(&'static str, String)>) -> Answer {
    Answer { status, headers, body: vec![] }
}

/// Outcome of a call: its head, or a socket that opened.
enum Outcome {
    Answer(Answer),
    Opened(SocketId),
}

/// A server of one session at a time.
struct Server {
    mode: Mode,
    now: Instant,
    index: Index<()>,
    tokens: TokenKey,
    bootstrap: Option<Token>,
    session: Option<(Token, Session)>,
    ended: bool,
    sockets: HashMap<String, SocketId>,
}

impl Server {
    fn new(mode: Mode) -> Self {
        let place = Place { host: HOST.parse().unwrap(), base: "".parse().unwrap() };
        let index = Index::build(&[1; 32], vec![place], [((), [7; 16])]);
        let tokens = TokenKey::new(&[2; 32]);
        Self {
            mode,
            now: Instant::now(),
            index,
            tokens,
            bootstrap: None,
            session: None,
            ended: false,
            sockets: HashMap::new(),
        }
    }

    fn fill(&self, text: &str) -> String {
        let token = |token: Option<Token>| token.map_or(String::new(), |token| token.text());
        let session = self.session.as_ref().map(|(token, _)| *token);
        let text = text.replace("$B", &token(self.bootstrap)).replace("$S", &token(session));
        text.replace("$MODE", self.mode.name())
    }

    fn asked(&mut self, method: &str, path: &str, fields: &[(String, String)], body: &[u8]) -> Outcome {
        let target = format!("/{path}");
        let fields = fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        let head = Head {
            method: method.as_bytes(),
            target: target.as_bytes(),
            host: Some(HOST.as_bytes()),
            protocol: None,
            fields,
        };
        match classify(&head, &self.index, &self.tokens) {
            Request::Api { token, call, .. } => self.called(token, call, body),
            _ => Outcome::Answer(answer(404, vec![])),
        }
    }

    fn called(&mut self, token: Token, call: Call, body: &[u8]) -> Outcome {
        if call == Call::Create {
            return Outcome::Answer(self.create(token, body));
        }
        let now = self.now;
        let Some((_, session)) = self.session.as_mut().filter(|(live, _)| *live == token) else {
            return Outcome::Answer(answer(404, vec![]));
        };
        Outcome::Answer(match call {
            Call::Create | Call::End => {
                session.end(End::Left);
                answer(204, vec![])
            }
            Call::Up { sequence, lane } => match session.up(lane, sequence, body.to_vec().into(), now) {
                Up::Acknowledged(number) => answer(204, vec![("x-up-ack", number.to_string())]),
                Up::Busy => answer(503, vec![]),
                Up::Refused | Up::Ended => answer(404, vec![]),
            },
            Call::Down { cursor, lane } => {
                let down = match session.down(lane, cursor, now) {
                    Down::Wait(poll) => session.waited(poll, now, true),
                    down => down,
                };
                match down {
                    Down::Batch { cursor, batch } => {
                        let headers = vec![("x-down-cursor", cursor.to_string())];
                        Answer { status: 200, headers, body: batch.to_bytes().to_vec() }
                    }
                    Down::Empty { cursor } => answer(204, vec![("x-down-cursor", cursor.to_string())]),
                    Down::LaneClosed { .. } => answer(204, vec![("x-lane-closed", "1".into())]),
                    Down::Wait(_) | Down::Refused | Down::Ended => answer(404, vec![]),
                }
            }
            Call::Socket(socket) => match session.open_socket(socket, now) {
                Ok(id) => return Outcome::Opened(id),
                Err(_) => answer(404, vec![]),
            },
        })
    }

    fn create(&mut self, bootstrap: Token, body: &[u8]) -> Answer {
        if self.bootstrap != Some(bootstrap) || body != HELLO {
            return answer(404, vec![]);
        }
        let (mode, now) = (self.mode, self.now);
        let (token, _) = self.session.get_or_insert_with(|| {
            let token = self.tokens.issue(TokenKind::Session, [5; 16]);
            (token, Session::new(mode, Limits::default(), Arc::new(Budget::new(1 << 30)).key(SecretTag::NONE), now))
        });
        let headers = vec![
            ("x-session-token", token.text()),
            ("x-carrier-mode", mode.name().into()),
            ("x-down-cursor", "0".into()),
            ("content-type", "application/octet-stream".into()),
        ];
        Answer { status: 200, headers, body: WELCOME.to_vec() }
    }

    fn request(&mut self, step: &Value) {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let mut fields: Vec<(String, String)> = step["headers"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, value)| (name.clone(), self.fill(value.as_str().unwrap())))
            .collect();
        let body = unhex(step["body"].as_str().unwrap_or_default());
        loop {
            let Outcome::Answer(found) = self.asked(&text(&step["method"]), &text(&step["path"]), &fields, &body)
            else {
                panic!("{step}")
            };
            let has = |name: &str| found.headers.iter().find(|(is, _)| *is == name).map(|(_, value)| value.clone());
            if let Some(until) = step["until"].as_object() {
                let header = &until["header"];
                let wanted = has(header[0].as_str().unwrap()).as_deref() == header[1].as_str();
                if wanted && found.status == until["status"] {
                    return;
                }
                assert_eq!(found.status, 200, "{step}");
                let cursor = fields.iter_mut().find(|(name, _)| name == "X-Down-Cursor").unwrap();
                cursor.1 = has("x-down-cursor").unwrap();
                continue;
            }
            assert_eq!(found.status, step["status"].as_u64().unwrap(), "{step}");
            for (name, value) in step["answer_headers"].as_object().into_iter().flatten() {
                assert_eq!(has(name), Some(self.fill(value.as_str().unwrap())), "{step}");
            }
            if let Some(expected) = step["answer"].as_str() {
                assert_eq!(found.body, unhex(expected), "{step}");
            }
            return;
        }
    }

    fn socket(&mut self, step: &Value) {
        let fields = [
            ("Connection", "Upgrade".into()),
            ("Upgrade", "websocket".into()),
            ("Sec-WebSocket-Version", "13".into()),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==".into()),
            ("Sec-WebSocket-Protocol", self.fill(step["protocol"].as_str().unwrap())),
        ];
        let fields = fields.map(|(name, value): (&str, String)| (name.to_owned(), value));
        let status = match self.asked("GET", "api/v1/ws", &fields, &[]) {
            Outcome::Opened(id) => {
                self.sockets.insert(step["name"].as_str().unwrap().to_owned(), id);
                101
            }
            Outcome::Answer(found) => found.status,
        };
        assert_eq!(status, step["status"].as_u64().unwrap(), "{step}");
    }

    fn on_socket(&mut self, step: &Value, what: &str) {
        let socket = self.sockets[step["name"].as_str().unwrap()];
        let (now, (_, session)) = (self.now, self.session.as_mut().unwrap());
        match what {
            "send" => {
                let message = unhex(step["body"].as_str().unwrap());
                if session.message(socket, message.into(), now) == Message::Ended {
                    session.close_socket(socket, now);
                }
            }
            "close" | "send_text" => session.close_socket(socket, now),
            "ended" => assert!(session.socket_over(socket), "{step}"),
            "open_still" => assert!(!session.socket_over(socket), "{step}"),
            other => panic!("{other}"),
        }
    }

    fn run(&mut self, steps: &[Value]) {
        let mut created = Vec::new();
        for step in steps {
            match step["do"].as_str().unwrap() {
                "bridge" => self.bootstrap = Some(self.tokens.issue(TokenKind::Bootstrap, [4; 16])),
                "request" => self.request(step),
                "socket" => self.socket(step),
                "wait" => {}
                "same_token" => assert!(created.windows(2).all(|two: &[Option<Token>]| two[0] == two[1])),
                what => self.on_socket(step, what),
            }
            created.extend(self.session.is_some().then(|| self.session.as_ref().map(|(token, _)| *token)));
            self.ended |= self.session.as_ref().is_some_and(|(_, session)| session.ended().is_some());
        }
    }
}

#[test]
fn every_sequence_of_the_vectors_goes_as_written() {
    let rows = web_vectors("sequences");
    assert!(rows.as_array().unwrap().len() >= 20);
    for row in rows.as_array().unwrap() {
        let carrier = row["carrier"].as_str().unwrap();
        for mode in Mode::ALL.into_iter().filter(|mode| carrier == "any" || carrier == mode.name()) {
            eprintln!("{mode}: {}", row["name"]);
            Server::new(mode).run(row["steps"].as_array().unwrap());
        }
    }
}
