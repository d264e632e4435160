package claim

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/websocket"

	"lazaret/internal/testneed"
)

// browser is a headless Chromium, driven over its debugging protocol.
type browser struct {
	t    *testing.T
	ws   *websocket.Conn
	id   int
	dir  string // where downloads go
	ctx  context.Context
	stop context.CancelFunc
}

type answered struct {
	ID     int
	Method string
	Result json.RawMessage
	Error  *struct{ Message string }
}

func newBrowser(t *testing.T) *browser {
	t.Helper()
	program := testneed.Program(t, "chromium")
	b := &browser{t: t, dir: t.TempDir()}
	b.ctx, b.stop = context.WithTimeout(t.Context(), 5*time.Minute) // a bound, not a measure
	c := exec.CommandContext(b.ctx, program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
		"--disable-component-update", "--disable-sync", "--ignore-certificate-errors", "--user-data-dir="+t.TempDir(), "--remote-debugging-port=0", "--remote-allow-origins=*", "about:blank")
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGKILL) }
	said, err := c.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		b.stop()
		_ = c.Wait() // it was killed
	})
	var at string
	for s := bufio.NewScanner(said); s.Scan() && at == ""; {
		_, at, _ = strings.Cut(s.Text(), "DevTools listening on ws://")
	}
	host, _, _ := strings.Cut(at, "/")
	resp, err := http.Get("http://" + host + "/json/list")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var list []struct {
		Type string `json:"type"`
		URL  string `json:"webSocketDebuggerUrl"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&list); err != nil {
		t.Fatal(err)
	}
	for _, x := range list {
		if x.Type == "page" {
			if b.ws, err = websocket.Dial(x.URL, "", "http://"+host); err != nil {
				t.Fatal(err)
			}
		}
	}
	if b.ws == nil {
		t.Fatal("the browser has no page")
	}
	b.ws.MaxPayloadBytes = 64 << 20
	t.Cleanup(func() { b.ws.Close() })
	b.do("Page.enable", nil)
	b.do("Browser.setDownloadBehavior", map[string]any{"behavior": "allow", "downloadPath": b.dir, "eventsEnabled": true})
	return b
}

// do gives a command and returns its result; events are passed by.
func (b *browser) do(method string, params map[string]any) json.RawMessage {
	b.t.Helper()
	b.id++
	if err := websocket.JSON.Send(b.ws, map[string]any{"id": b.id, "method": method, "params": params}); err != nil {
		b.t.Fatal(err)
	}
	for {
		a := b.next()
		if a.ID != b.id {
			continue
		}
		if a.Error != nil {
			b.t.Fatalf("%s: %s", method, a.Error.Message)
		}
		return a.Result
	}
}

func (b *browser) next() answered {
	b.t.Helper()
	var a answered
	if err := b.ws.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		b.t.Fatal(err)
	}
	if err := websocket.JSON.Receive(b.ws, &a); err != nil {
		b.t.Fatal(err)
	}
	return a
}

func (b *browser) open(url string) {
	b.t.Helper()
	b.do("Page.navigate", map[string]any{"url": url})
	b.loaded("")
}

// loaded waits until a page stands whose title begins so.
func (b *browser) loaded(title string) {
	b.t.Helper()
	for b.ctx.Err() == nil {
		if b.js("document.readyState") == "complete" && strings.HasPrefix(b.js("document.title"), title) && b.js("location.protocol") == "https:" {
			return
		}
	}
	b.t.Fatalf("no page %q: %s", title, b.js("document.title"))
}

// js evaluates an expression outside of the page's own rules for scripts. While a page is
// replaced there is nothing to ask, which is "".
func (b *browser) js(expression string) string {
	b.t.Helper()
	b.id++
	if err := websocket.JSON.Send(b.ws, map[string]any{"id": b.id, "method": "Runtime.evaluate", "params": map[string]any{"expression": "String(" + expression + ")"}}); err != nil {
		b.t.Fatal(err)
	}
	for {
		a := b.next()
		if a.ID != b.id {
			continue
		}
		var r struct{ Result struct{ Value string } }
		if a.Error != nil || json.Unmarshal(a.Result, &r) != nil {
			return ""
		}
		return r.Result.Value
	}
}

// key presses a key of the keyboard; text is what it types.
func (b *browser) key(name, text string, code, modifiers int) {
	b.t.Helper()
	p := map[string]any{"type": "keyDown", "key": name, "windowsVirtualKeyCode": code, "modifiers": modifiers}
	if text != "" {
		p["text"] = text
	}
	b.do("Input.dispatchKeyEvent", p)
	b.do("Input.dispatchKeyEvent", map[string]any{"type": "keyUp", "key": name, "windowsVirtualKeyCode": code, "modifiers": modifiers})
}

// tabTo presses the tabulator until the element has the focus, and returns what had it on the way.
func (b *browser) tabTo(id string) []string {
	b.t.Helper()
	var way []string
	for range 60 {
		b.key("Tab", "", 9, 0)
		at := b.js(`document.activeElement.id || document.activeElement.value || document.activeElement.textContent`)
		way = append(way, strings.TrimSpace(at))
		if at == id || strings.Contains(at, id) {
			return way
		}
	}
	b.t.Fatalf("the keyboard does not get to %s: %v", id, way)
	return nil
}

func (b *browser) typeIn(text string) {
	b.t.Helper()
	b.do("Input.insertText", map[string]any{"text": text})
}

// shoot keeps a picture where SHOTS says so, for people to look at.
func (b *browser) shoot(name string) {
	b.t.Helper()
	dir := os.Getenv("SHOTS")
	if dir == "" {
		return
	}
	for _, width := range []int{390, 1280} {
		for _, scheme := range []string{"light", "dark"} {
			b.do("Emulation.setEmulatedMedia", map[string]any{"features": []map[string]string{{"name": "prefers-color-scheme", "value": scheme}}})
			b.do("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500})
			var shot struct{ Data string }
			if err := json.Unmarshal(b.do("Page.captureScreenshot", map[string]any{"captureBeyondViewport": true}), &shot); err != nil {
				b.t.Fatal(err)
			}
			png, err := base64.StdEncoding.DecodeString(shot.Data)
			if err != nil {
				b.t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%s-%d-%s.png", name, width, scheme)), png, 0o600); err != nil {
				b.t.Fatal(err)
			}
		}
	}
	b.do("Emulation.clearDeviceMetricsOverride", nil)
}

// TestPageInABrowser: a person with a keyboard and no script fills the form in wrongly, then
// rightly, downloads the credential and starts the gateway.
func TestPageInABrowser(t *testing.T) {
	if os.Getenv("LONG") == "" && os.Getenv("SHOTS") == "" {
		t.Skip("a browser takes long to start: LONG=1 runs it")
	}
	m := newMachine(t, nil)
	m.block = make(chan struct{})
	b := newBrowser(t)
	b.do("Emulation.setScriptExecutionDisabled", map[string]any{"value": true})
	b.open("https://" + m.address + "/")
	b.loaded(formTitle)
	b.shoot("form")
	if got := b.js(`document.querySelector(".print").textContent.trim()`); got != m.print {
		t.Errorf("the page shows fingerprint %q", got)
	}
	if got := b.js(`[...document.querySelectorAll("input,textarea,select")].filter(e => e.type != "radio" && !e.labels.length).length`); got != "0" {
		t.Errorf("%s fields have no label", got)
	}
	for _, width := range []int{320, 390} {
		b.do("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": true})
		if got := b.js(`document.documentElement.scrollWidth`); got != fmt.Sprint(width) {
			t.Errorf("at %d pixels the page is %s wide", width, got)
		}
	}
	b.do("Emulation.clearDeviceMetricsOverride", nil)

	b.js(`document.querySelector("input[value=static]").checked = true`)
	b.js(`document.querySelector("details").open = true`)
	b.shoot("static")
	b.js(`document.querySelector("input[value=leave]").checked = true`)
	b.js(`document.querySelector("details").open = false`)

	way := b.tabTo(entryCode)
	if b.js(`getComputedStyle(document.activeElement).outlineStyle`) != "solid" {
		t.Error("the focus cannot be seen")
	}
	b.typeIn("WRONG")
	way = append(way, b.tabTo(entryClock)...)
	b.key(" ", " ", 32, 0)
	way = append(way, b.tabTo("enroll_names")...)
	b.typeIn("gw.example.com")
	way = append(way, b.tabTo("Claim this gateway")...)
	t.Logf("tab order: %q", way)
	b.key("Enter", "\r", 13, 0)
	b.loaded("Error: ")
	b.shoot("faults")
	for name, want := range map[string]string{entryCode: "true", "management": "true", "enroll_names": "null"} {
		if got := b.js(`document.getElementById("` + name + `").getAttribute("aria-invalid")`); got != want {
			t.Errorf("%s: invalid %s, want %s", name, got, want)
		}
	}
	if code, names := b.js(`document.getElementById("code").value`), b.js(`document.getElementById("enroll_names").value`); code != "WRONG" || names != "gw.example.com" {
		t.Errorf("kept %q and %q", code, names)
	}
	b.js(`document.getElementById("code").value = ""`)
	b.tabTo(entryCode)
	b.typeIn(m.code.String())
	b.tabTo("management")
	b.typeIn("192.0.2.10 tcp/443")
	b.tabTo("Claim this gateway")
	b.key("Enter", "\r", 13, 0)
	b.loaded("Making the gateway")
	b.shoot("progress")
	close(m.block)
	b.loaded(resultTitle)
	b.shoot("result")
	b.tabTo("start the gateway")
	b.key("Enter", "\r", 13, 0) // too early
	for b.ctx.Err() == nil && b.js(`document.querySelectorAll(".faults").length`) != "1" {
		continue
	}
	if _, kept := m.count(); kept != 0 {
		t.Error("started before the credential was downloaded")
	}
	b.tabTo("Download")
	b.key("Enter", "\r", 13, 0)
	var file []byte
	for b.ctx.Err() == nil {
		var err error
		if file, err = os.ReadFile(filepath.Join(b.dir, CredentialName)); err == nil || !errors.Is(err, os.ErrNotExist) {
			break
		}
		b.js("1")
	}
	c, err := ParseCredential(file)
	if err != nil || c.Server != "https://gw.example.com:8443" {
		t.Errorf("the credential is for %q: %v", c.Server, err)
	}
	b.tabTo("start the gateway")
	b.key("Enter", "\r", 13, 0)
	b.loaded("The gateway starts")
	b.shoot("started")
	if keeper, door := m.end(); keeper != nil || door != nil {
		t.Errorf("keeper ended with %v, door with %v", keeper, door)
	}
	if _, kept := m.count(); kept != 1 {
		t.Error("not kept")
	}
}
