//! A headless Chromium, driven over the DevTools protocol:
//! <https://chromedevtools.github.io/devtools-protocol/>.

use std::{
    env,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{net::TcpStream, runtime::Runtime, time::timeout};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async, tungstenite::Message};

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);
const FLAGS: [&str; 12] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-color-profile=srgb",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
];

/// A browser with one page, ended with the test.
pub(crate) struct Browser {
    child: Child,
    _folder: TempDir,
    runtime: Runtime,
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    session: String,
    asked: u64,
    /// Exceptions, and what the browser's log calls an error.
    pub(crate) errors: Vec<String>,
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The browser's binary: `$CHROMIUM`, or Debian's.
fn binary() -> Option<PathBuf> {
    let path =
        env::var_os("CHROMIUM").map_or_else(|| PathBuf::from("/usr/bin/chromium"), PathBuf::from);
    path.exists().then_some(path)
}

/// Starts one; none where there is none, unless `TAPEFLOW_REQUIRE_BROWSER=1`.
pub(crate) fn browser() -> Option<Browser> {
    let Some(binary) = binary() else {
        assert!(
            env::var("TAPEFLOW_REQUIRE_BROWSER").as_deref() != Ok("1"),
            "no chromium: apt-get install chromium, or name it in CHROMIUM"
        );
        println!("not run: no chromium");
        return None;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let profile = format!("--user-data-dir={}", folder.path().display());
    let mut child = Command::new(binary)
        .args(FLAGS)
        .args([&profile, "about:blank"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the browser starts");
    let mut said = BufReader::new(child.stderr.take().expect("piped"));
    let mut all = String::new();
    let address = loop {
        let mut line = String::new();
        assert!(
            said.read_line(&mut line).expect("a line") > 0,
            "the browser ended: {all}"
        );
        if let Some(address) = line.strip_prefix("DevTools listening on ") {
            break address.trim().to_owned();
        }
        all.push_str(&line);
    };
    // The browser writes more, and would block if its output were not read.
    std::thread::spawn(move || said.lines().for_each(drop));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let (socket, _) = runtime
        .block_on(connect_async(address))
        .expect("the browser listens");
    let mut browser = Browser {
        child,
        _folder: folder,
        runtime,
        socket,
        session: String::new(),
        asked: 0,
        errors: Vec::new(),
    };
    let target =
        browser.call("Target.createTarget", json!({ "url": "about:blank" }))["targetId"].clone();
    let attached = browser.call(
        "Target.attachToTarget",
        json!({ "targetId": target, "flatten": true }),
    );
    browser.session = attached["sessionId"]
        .as_str()
        .expect("a session")
        .to_owned();
    for domain in ["Page.enable", "Runtime.enable", "Log.enable"] {
        browser.call(domain, json!({}));
    }
    Some(browser)
}

impl Browser {
    /// One command, to its answer.
    pub(crate) fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.asked += 1;
        let mut message = json!({ "id": self.asked, "method": method, "params": parameters });
        if !self.session.is_empty() {
            message["sessionId"] = self.session.as_str().into();
        }
        let Self {
            runtime,
            socket,
            asked,
            errors,
            ..
        } = self;
        runtime.block_on(async {
            socket
                .send(Message::text(message.to_string()))
                .await
                .expect("sent");
            loop {
                let heard = timeout(PATIENCE, socket.next())
                    .await
                    .unwrap_or_else(|_| panic!("{method}: no answer"));
                let Message::Text(text) = heard.expect("the browser is there").expect("a message")
                else {
                    continue;
                };
                let heard: Value = serde_json::from_str(&text).expect("JSON");
                if heard["id"] == *asked {
                    assert!(heard["error"].is_null(), "{method}: {heard}");
                    return heard["result"].clone();
                }
                match heard["method"].as_str() {
                    Some("Runtime.exceptionThrown") => {
                        errors.push(heard["params"]["exceptionDetails"].to_string())
                    }
                    Some("Log.entryAdded") if heard["params"]["entry"]["level"] == "error" => {
                        errors.push(heard["params"]["entry"].to_string())
                    }
                    _ => {}
                }
            }
        })
    }

    /// What an expression comes to on the page.
    pub(crate) fn eval(&mut self, expression: &str) -> Value {
        let answer = self.call(
            "Runtime.evaluate",
            json!({ "expression": expression, "returnByValue": true, "awaitPromise": true }),
        );
        assert!(
            answer["exceptionDetails"].is_null(),
            "{expression}: {answer}"
        );
        answer["result"]["value"].clone()
    }

    /// Asks until an expression comes to true.
    pub(crate) fn until(&mut self, expression: &str) {
        let deadline = Instant::now() + PATIENCE;
        while self.eval(&format!("!!({expression})")) != json!(true) {
            assert!(
                Instant::now() < deadline,
                "not within {PATIENCE:?}: {expression}; on the page: {}",
                self.eval("document.body?.innerText")
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Opens an address, in a window of a size.
    pub(crate) fn open(&mut self, address: &str, width: u32, height: u32) {
        let phone = width < 600;
        self.call(
            "Emulation.setDeviceMetricsOverride",
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone }),
        );
        self.call("Page.navigate", json!({ "url": address }));
        self.until("document.readyState === 'complete' && (link => link && !['connecting', 'lost'].includes(link.dataset.state))(document.getElementById('link'))");
    }

    /// Presses a key and lets it go.
    pub(crate) fn press(&mut self, key: &str) {
        for kind in ["keyDown", "keyUp"] {
            self.call(
                "Input.dispatchKeyEvent",
                json!({ "type": kind, "key": key, "code": key }),
            );
        }
    }
}
