package webhook

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"lazaret/quarantine"
)

// TestSignatureOfTheSpecification: the example that Standard Webhooks' libraries are tested with.
func TestSignatureOfTheSpecification(t *testing.T) {
	s, err := ParseSecret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	if err != nil {
		t.Fatal(err)
	}
	h := http.Header{}
	Sign(h, "msg_p5jXN8AQM9LWM0D4loKWxJek", time.Unix(1614265330, 0), []byte(`{"test": 2432232314}`), s)
	if got := h.Get("webhook-signature"); got != "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=" {
		t.Errorf("signature %s", got)
	}
	if s.String() != "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw" {
		t.Errorf("the secret reads back as %s", s)
	}
	for _, text := range []string{"", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_", "whsec_AAAA", "whsec_!", "whsec_" + strings.Repeat("QUFB", 22)} {
		if _, err := ParseSecret(text); err == nil {
			t.Errorf("%q is taken for a secret", text)
		}
	}
}

func TestReportsReachTheGate(t *testing.T) {
	l := newLab(t)
	status, a, _ := l.post(good)
	want := quarantine.Report{Device: "dev1", Source: "mdm", Verdict: quarantine.Compliant, At: noon.Add(-time.Minute), Sequence: 7,
		Validity: 30 * time.Minute, Received: noon, Facts: map[string]string{"os.name": "linux"}, Detail: "fine"}
	if status != 200 || !a.OK || len(a.Results) != 1 || !a.Results[0].Enforced || *a.Results[0].Decision != (Decision{"routed", "full", noon.Add(time.Hour)}) {
		t.Errorf("status %d, %+v", status, a)
	}
	if got := l.gate.got; len(got) != 1 || fmt.Sprint(got[0]) != fmt.Sprint(want) {
		t.Errorf("the gate got %+v, want %+v", got, want)
	}
	if l.gate.by != (quarantine.Actor{Kind: "source", Name: "mdm", Address: "192.0.2.1:1234"}) {
		t.Errorf("asked as %+v", l.gate.by)
	}
	if h := l.cfg.Ledger.List(); len(h) != 1 || h[0].Accepted != 1 || !h[0].Heard.Equal(noon) || h[0].Problem != "" {
		t.Errorf("health %+v", h)
	}
}

// TestEachLineHasItsAnswer: what is wrong with one report stops no other.
func TestEachLineHasItsAnswer(t *testing.T) {
	l := newLab(t)
	l.gate.errs = map[quarantine.ID]error{"dev-stale": quarantine.ErrStale, "dev-foreign": fmt.Errorf("scope: %w", quarantine.ErrForbidden),
		"dev-later": fmt.Errorf("no data plane: %w", quarantine.ErrNotEnforced)}
	line := func(device, rest string) string {
		return fmt.Sprintf(`{"device":%q,"verdict":"compliant","at":"2026-03-01T11:59:00Z"%s}`, device, rest)
	}
	lines := []struct{ text, fault string }{
		{line("dev1", ""), ""}, {line("dev-stale", ""), "older than"}, {line("dev-foreign", ""), "not allowed"}, {line("dev-later", ""), ""},
		{line("nobody", ""), "no such device"}, {line("ONE", ""), ""}, {line("TWIN", ""), "several devices"},
		{`{"device":"dev2","verdict":"compliant"}`, "\"at\" is missing"}, {`{"device":"dev2","at":"2026-03-01T11:59:00Z"}`, "verdict"},
		{line("dev3", `,"validity":"-1h"`), "validity"}, {line("dev3", `,"facts":{"a":"`+strings.Repeat("x", 257)+`"}`), "fact"},
		{line("dev3", `,"detail":"`+strings.Repeat("x", 1025)+`"`), "detail"}, {line("", ""), "no device"}, {line("dev9", ""), ""},
	}
	var texts []string
	for _, x := range lines {
		texts = append(texts, x.text)
	}
	status, a, _ := l.post(`{"reports":[` + strings.Join(texts, ",") + `]}`)
	if status != 200 || a.OK || len(a.Results) != len(lines) || l.gate.calls != 1 || len(l.gate.got) != 6 {
		t.Fatalf("status %d, %d results, %d calls with %d reports", status, len(a.Results), l.gate.calls, len(l.gate.got))
	}
	for i, r := range a.Results {
		switch {
		case lines[i].fault == "" && (r.Problem != nil || r.Decision == nil):
			t.Errorf("line %d: %+v", i, r.Problem)
		case lines[i].fault != "" && (r.Problem == nil || !strings.Contains(r.Problem.Error, lines[i].fault) || r.Problem.Remedy == "" || r.Decision != nil):
			t.Errorf("line %d: %+v, want %q", i, r.Problem, lines[i].fault)
		}
	}
	if a.Results[3].Enforced || !a.Results[0].Enforced || a.Results[5].Device != "dev-by-serial" {
		t.Errorf("results %+v", a.Results)
	}
	if len(l.audit.told) != 1 || !strings.Contains(l.audit.told[0], "source mdm dev-foreign") {
		t.Errorf("audited %q", l.audit.told)
	}
}

// TestWhatTheGatewayCouldNotDoIsSentAgain: the same message is then taken as a new one.
func TestWhatTheGatewayCouldNotDoIsSentAgain(t *testing.T) {
	l := newLab(t)
	h := l.signed(good)
	for _, err := range []error{quarantine.ErrNotReady, errors.New("the disk is on fire")} {
		l.gate.errs["dev1"] = err
		w := l.send("mdm", h, good)
		status, a, _ := l.answer(w)
		if status != 503 || w.Header().Get("Retry-After") == "" || len(a.Results) != 1 || strings.Contains(w.Body.String(), "fire") {
			t.Errorf("status %d, %s", status, w.Body)
		}
	}
	delete(l.gate.errs, "dev1")
	if status, a, _ := l.answer(l.send("mdm", h, good)); status != 200 || a.Repeated || l.gate.calls != 3 {
		t.Errorf("status %d, %+v, %d calls", status, a, l.gate.calls)
	}
}

// TestOnceOnlyAcrossRestarts: a message is taken once however often it comes, whether or not
// the gateway was restarted in between; a sender that tries again is told so.
func TestOnceOnlyAcrossRestarts(t *testing.T) {
	l := newLab(t)
	h := l.signed(good)
	id := h.Get(HeaderID)
	if status, _, _ := l.answer(l.send("mdm", h, good)); status != 200 {
		t.Fatalf("status %d", status)
	}
	again := http.Header{}
	check := func(when string, h http.Header, body string, want int, repeated bool) {
		t.Helper()
		if status, a, _ := l.answer(l.send("mdm", h, body)); status != want || a.Repeated != repeated || l.gate.calls != 1 {
			t.Errorf("%s: status %d, repeated %v, %d calls", when, status, a.Repeated, l.gate.calls)
		}
	}
	for range 2 {
		check("replayed", h, good, 401, false)
		l.start()
		check("replayed after a restart", h, good, 401, false)
		l.now = l.now.Add(time.Minute)
		Sign(again, id, l.now, []byte(good), l.secret)
		check("tried again", again, good, 200, true)
		check("its replay", again, good, 401, false)
		otherBody := strings.Replace(good, "dev1", "dev2", 1)
		Sign(again, id, l.now, []byte(otherBody), l.secret)
		check("another body", again, otherBody, 409, false)
		Sign(again, id, l.now, []byte(good), l.secret)
		l.start()
		check("the replay of a repetition, after a restart", again, good, 401, false)
	}
	l.now = l.now.Add(2 * MaxWindow)
	check("when it is old", h, good, 401, false)
	before := len(l.memory.notes)
	if status, _, _ := l.post(`{"event":"ping"}`); status != 200 {
		t.Errorf("ping: %d", status)
	}
	if len(l.memory.notes) != 1 || before < 3 || len(l.seen.all) != 1 {
		t.Errorf("%d notes before, %d after what was over, %d in memory", before, len(l.memory.notes), len(l.seen.all))
	}
}

// TestKeysRotate: the old key is good beside the new one until it is removed.
func TestKeysRotate(t *testing.T) {
	l := newLab(t)
	ctx := t.Context()
	key, next, err := l.keys.Add(ctx, boss, "mdm")
	if err != nil || next.String() == l.secret.String() {
		t.Fatalf("%v, the same secret: %v", err, next.String() == l.secret.String())
	}
	try := func(want int, secrets ...Secret) {
		t.Helper()
		l.n++
		h := http.Header{}
		Sign(h, fmt.Sprintf("msg_%d", l.n), l.now, []byte(good), secrets...)
		if got := l.send("mdm", h, good).Code; got != want {
			t.Errorf("status %d, want %d", got, want)
		}
	}
	try(200, l.secret)
	try(200, next)
	try(200, NewSecret(), next)
	if err := l.keys.Remove(ctx, boss, "mdm", l.key.ID); err != nil {
		t.Fatal(err)
	}
	try(401, l.secret)
	try(200, next)
	if err := l.keys.Remove(ctx, boss, "mdm", l.key.ID); !errors.Is(err, ErrNoKey) {
		t.Errorf("removed twice: %v", err)
	}
	for range MaxKeys - 1 {
		if _, _, err := l.keys.Add(ctx, boss, "mdm"); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := l.keys.Add(ctx, boss, "mdm"); !errors.Is(err, ErrKeys) {
		t.Errorf("a key too many: %v", err)
	}
	all, window, err := l.keys.List(ctx, "mdm")
	if err != nil || len(all) != MaxKeys || all[0].ID != key.ID || all[0].By != "root" || window != MaxWindow {
		t.Errorf("keys %+v, window %s, %v", all, window, err)
	}
	if raw := string(l.memory.settings["webhook/mdm"]); strings.Contains(raw, "whsec") {
		t.Errorf("the settings hold a secret: %s", raw)
	}
	// Another source has no part in it, and what is forgotten is worth nothing.
	h := http.Header{}
	Sign(h, "elsewhere", l.now, []byte(good), next)
	if got := l.send("other", h, good).Code; got != 401 {
		t.Errorf("another source's key: %d", got)
	}
	if err := l.keys.Forget(ctx, boss, "mdm"); err != nil || len(l.memory.secrets) != 0 || len(l.memory.settings) != 0 {
		t.Errorf("forgotten: %v, %d secrets left", err, len(l.memory.secrets))
	}
	try(401, next)
}

func TestWindowCanBeNarrower(t *testing.T) {
	l := newLab(t)
	ctx := t.Context()
	for _, d := range []time.Duration{0, time.Second, MaxWindow + 1} {
		if err := l.keys.SetWindow(ctx, boss, "mdm", d); !errors.Is(err, ErrKeys) {
			t.Errorf("window of %s: %v", d, err)
		}
	}
	try := func(off time.Duration, want int) {
		t.Helper()
		h := l.signed(good)
		l.now = l.now.Add(off)
		if got := l.send("mdm", h, good).Code; got != want {
			t.Errorf("%s later: status %d, want %d", off, got, want)
		}
		l.now = noon
	}
	try(MaxWindow, 200)
	try(-MaxWindow, 200)
	try(MaxWindow+time.Second, 401)
	try(-MaxWindow-time.Second, 401)
	if err := l.keys.SetWindow(ctx, boss, "mdm", 30*time.Second); err != nil {
		t.Fatal(err)
	}
	try(30*time.Second, 200)
	try(31*time.Second, 401)
	if h := l.cfg.Ledger.List(); len(h) != 1 || !strings.Contains(h[0].Problem, "31s off") {
		t.Errorf("health %+v", h)
	}
}

// TestStrangersLearnNothingAndFillNoLog: one answer for whatever is wrong, and a bounded
// number of entries.
func TestStrangersLearnNothingAndFillNoLog(t *testing.T) {
	l := newLab(t)
	var first string
	for i := range 500 {
		h := l.signed(good)
		name := "mdm"
		switch i % 5 {
		case 0:
			name = "nothing"
		case 1:
			name = "api"
		case 2:
			h.Set(HeaderSignature, "v1,"+strings.Repeat("A", 43)+"=")
		case 3:
			h.Del(HeaderTime)
		case 4:
			l.now = l.now.Add(-time.Hour)
			h = l.signed(good)
			l.now = noon
		}
		w := l.send(name, h, good)
		got := fmt.Sprint(w.Code, w.Header(), w.Body)
		if first == "" {
			first = got
		}
		if got != first || w.Code != 401 {
			t.Fatalf("case %d is answered %s, case 0 %s", i%5, got, first)
		}
	}
	if n := len(l.audit.told); n != 30 {
		t.Errorf("%d entries for 500 strangers, want 30", n)
	}
	l.now = l.now.Add(time.Minute)
	l.send("nothing", l.signed(good), good)
	if last := l.audit.told[len(l.audit.told)-1]; !strings.Contains(last, "470 refusals before it") {
		t.Errorf("the next entry says %q", last)
	}
	// A source whose devices are not its own fills none either, and not the strangers' share.
	l.gate.errs["dev1"] = quarantine.ErrForbidden
	for range 700 {
		l.post(good)
	}
	if n := l.audit.kinds["source"]; n != 600 {
		t.Errorf("%d entries of a source, want 600", n)
	}
}

func TestSizeIsBounded(t *testing.T) {
	l := newLab(t)
	big := good[:len(good)-1] + strings.Repeat(" ", maxBody) + "}"
	if got := l.send("mdm", l.signed(big), big).Code; got != 413 {
		t.Errorf("a message of more than 1 MiB: %d", got)
	}
	many := strings.Repeat(good+",", maxReports)
	if status, _, p := l.post(`{"reports":[` + many + good + `]}`); status != 400 || !strings.Contains(p.Error, "1 to 1000") {
		t.Errorf("1001 reports: %d, %+v", status, p)
	}
	if status, a, _ := l.post(`{"reports":[` + many[:len(many)-1] + `]}`); status != 200 || len(a.Results) != maxReports {
		t.Errorf("1000 reports: %d, %d results", status, len(a.Results))
	}
	var leave []func()
	for range doorEach {
		leave = append(leave, l.door.Enter("192.0.2.1:9"))
	}
	if got := l.send("mdm", l.signed(good), good); got.Code != 503 || got.Header().Get("Retry-After") == "" {
		t.Errorf("one address too often at once: %d", got.Code)
	}
	if l.door.Enter("192.0.2.2:9") == nil || l.door.Enter("[2001:db8::1]:9") == nil {
		t.Error("one address keeps out others")
	}
	for _, f := range leave {
		f()
	}
	if status, _, _ := l.post(good); status != 200 {
		t.Errorf("afterwards: %d", status)
	}
}

// TestOneOfManyAtOnceIsTaken sends one message from many sides at the same time.
func TestOneOfManyAtOnceIsTaken(t *testing.T) {
	l := newLab(t)
	h := l.signed(good)
	var wg sync.WaitGroup
	codes := make([]int, 12)
	for i := range codes {
		wg.Go(func() { codes[i] = l.send("mdm", h, good).Code })
	}
	wg.Wait()
	taken := 0
	for _, c := range codes {
		if c == 200 {
			taken++
		}
	}
	if taken != 1 || l.gate.calls != 1 {
		t.Errorf("taken %d times, %d calls: %v", taken, l.gate.calls, codes)
	}
}

// TestBrokenStoreTakesNothing: what cannot be checked is not taken.
func TestBrokenStoreTakesNothing(t *testing.T) {
	l := newLab(t)
	l.memory.secrets = map[string][]byte{}
	if status, _, _ := l.post(good); status != 503 || l.gate.calls != 0 {
		t.Errorf("without its secret: %d", status)
	}
	l.memory.err = errors.New("broken")
	if status, _, _ := l.post(good); status != 503 || l.gate.calls != 0 {
		t.Errorf("without settings: %d", status)
	}
	l.memory.err = nil
	l.memory.notes[seenPrefix+"x"] = []byte{9}
	l.key, l.secret, _ = l.keys.Add(t.Context(), boss, "other")
	l.start()
	send := func() int { return l.send("other", l.signed(good), good).Code }
	if got := send(); got != 503 || l.gate.calls != 0 {
		t.Errorf("with a note that cannot be read: %d", got)
	}
	l.now = l.now.Add(MaxWindow + time.Second)
	if got := send(); got != 200 || l.gate.calls != 1 {
		t.Errorf("once nothing can be in it any more: %d", got)
	}
}

// TestStrangersHoldNoPlaces: who knows no source, or has no headers that may be one's, keeps
// no place from those who do, however slowly its messages come; and one address keeps few.
func TestStrangersHoldNoPlaces(t *testing.T) {
	if doorEach*8 > doorTotal {
		t.Errorf("one address takes %d of %d places", doorEach, doorTotal)
	}
	l := newLab(t)
	ended := make(chan int, doorTotal)
	var slow []*io.PipeWriter
	for a := range doorTotal / doorEach {
		for i := range doorEach {
			reader, writer := io.Pipe()
			slow = append(slow, writer)
			r := httptest.NewRequest(http.MethodPost, "/hooks/v1/nobody", reader)
			r.SetPathValue("source", "nobody")
			maps.Copy(r.Header, l.signed(good))
			r.RemoteAddr = fmt.Sprintf("198.51.100.%d:%d", a+1, 1000+i)
			w := httptest.NewRecorder()
			go func() { l.ServeHTTP(w, r); ended <- w.Code }()
		}
	}
	for _, w := range slow { // each is being read
		if _, err := w.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	if w := l.send("mdm", l.signed(good), good); w.Code != http.StatusOK {
		t.Errorf("a signed message: %d %s", w.Code, w.Body)
	}
	for _, w := range slow {
		w.Close()
	}
	for range slow {
		if code := <-ended; code != http.StatusUnauthorized {
			t.Errorf("a message to nobody: %d", code)
		}
	}
	reader, writer := io.Pipe() // never written to: refused without being read
	defer writer.Close()
	for what, at := range map[string]time.Time{"old": l.now.Add(-MaxWindow - time.Second), "early": l.now.Add(MaxWindow + time.Second)} {
		r := httptest.NewRequest(http.MethodPost, "/hooks/v1/mdm", reader)
		r.SetPathValue("source", "mdm")
		Sign(r.Header, "m", at, nil, l.secret)
		w := httptest.NewRecorder()
		if l.ServeHTTP(w, r); w.Code != http.StatusUnauthorized {
			t.Errorf("%s: %d", what, w.Code)
		}
	}
}

// TestWidenedWindowTakesNothingTwice: a message is remembered for as long as any window takes it.
func TestWidenedWindowTakesNothingTwice(t *testing.T) {
	l := newLab(t)
	if err := l.keys.SetWindow(t.Context(), boss, "mdm", minWindow); err != nil {
		t.Fatal(err)
	}
	h := l.signed(good)
	if w := l.send("mdm", h, good); w.Code != http.StatusOK {
		t.Fatal(w.Code)
	}
	l.now = l.now.Add(minWindow + grace + 10*time.Second)
	l.post(`{"event":"ping"}`) // forgets what is over
	if err := l.keys.SetWindow(t.Context(), boss, "mdm", MaxWindow); err != nil {
		t.Fatal(err)
	}
	if w := l.send("mdm", h, good); w.Code != http.StatusUnauthorized {
		t.Errorf("the same bytes again: %d %s", w.Code, w.Body)
	}
}

// namesake has a device d5 that is named as d1's serial number.
type namesake struct{ *gate }

func (namesake) Device(ref string) (quarantine.Record, error) {
	if ref == "C1" || ref == "d5" {
		return quarantine.Record{Device: quarantine.Device{ID: "d5", Name: "C1"}}, nil
	}
	return quarantine.Record{}, quarantine.ErrUnknownDevice
}

func (namesake) BySerial(serial string) []quarantine.Record {
	if serial == "C1" {
		return []quarantine.Record{{Device: quarantine.Device{ID: "d1", Serial: "C1"}}}
	}
	return nil
}

// TestNameIsNoSerialNumber: a device that is named as another's serial number gets none of its
// verdicts; by its id it has its own.
func TestNameIsNoSerialNumber(t *testing.T) {
	l := newLab(t)
	l.Handler.cfg.Gate = namesake{l.gate}
	l.post(`{"device":"C1","verdict":"compliant","at":"2026-03-01T11:59:00Z"}`)
	if len(l.gate.got) != 0 {
		t.Errorf("the gate got %+v", l.gate.got)
	}
	l.post(`{"device":"d5","verdict":"compliant","at":"2026-03-01T11:59:00Z"}`)
	if len(l.gate.got) != 1 || l.gate.got[0].Device != "d5" {
		t.Errorf("by its id: the gate got %+v", l.gate.got)
	}
}
