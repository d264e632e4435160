package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"lazaret/enroll/code"
	"lazaret/internal/testneed"
	"lazaret/internal/testnet"
)

func TestMain(m *testing.M) {
	testnet.Main(roles)
	os.Exit(m.Run())
}

// object is one line of the demo's JSON form.
type object map[string]any

func (o object) number(t *testing.T, key string) float64 {
	t.Helper()
	n, ok := o[key].(float64)
	if !ok {
		t.Errorf("step %v: %s is %v, want a number", o["step"], key, o[key])
	}
	return n
}

func readObjects(t *testing.T, text []byte) []object {
	t.Helper()
	var all []object
	for line := range bytes.Lines(text) {
		var o object
		if err := json.Unmarshal(line, &o); err != nil {
			t.Fatalf("no JSON object: %s: %v", line, err)
		}
		all = append(all, o)
	}
	return all
}

// TestDemo runs the whole demo, and looks at what it measured as well as at its verdict.
func TestDemo(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	testneed.Namespaces(t)
	var out bytes.Buffer
	if code := run(t.Context(), []string{"--json"}, &out, t.Output()); code != 0 {
		t.Errorf("exit status %d", code)
	}
	objects := readObjects(t, out.Bytes())
	steps := map[string]object{}
	order := ""
	for _, o := range objects {
		id, _ := o["step"].(string)
		steps[id] = o
		order += id
		if o["ok"] != true {
			t.Errorf("%v", o)
		}
	}
	if last := objects[len(objects)-1]; order != "abcdefghijklm" || last["summary"] != true || last["ok"] != true {
		t.Fatalf("steps %q, last object %v", order, last)
	}
	for _, want := range []struct {
		step, key   string
		least, most float64
	}{
		{"b", "codes_refused", 4, 4},
		{"b", "messages", 1, 1},
		{"d", "allowed_answered", 6, 6}, // 3 protocols, 2 families
		{"d", "denied", 68, 68},         // 34 below, from two addresses each
		{"d", "denied_left_through_tunnel", 68, 68},
		{"d", "denied_reached_gateway", 34, 34}, // the others are not the device's addresses yet
		{"d", "denied_arrived", 0, 0},
		{"d", "denied_answered", 0, 0},
		{"d", "control_answered", 34, 34}, // 6 targets over 3 protocols and 2 families, but for one echo
		{"e", "self_denied_answered", 0, 0},
		{"e", "self_denied_arrived", 0, 0},
		{"e", "report_to_first_packet_ms", 0.1, 2000},
		{"f", "offered_after_commit", 100, 1e6},
		{"f", "passed_after_commit", 0, 0},
		{"f", "agent_offered_after_commit", 100, 1e6},
		{"f", "agent_passed_after_commit", 0, 0},
		{"f", "other_device_flows_going_on", 8, 8},
		{"h", "new_connections_answered", 12, 12},
		{"h", "routed_denied_arrived", 0, 0},
		{"h", "stale_denied_arrived", 0, 0},
		{"h", "killed_to_last_packet_ms", 6000, 12500},
		{"i", "answer_to_last_packet_ms", 1000, 4200},
		{"i", "freshness_left_at_end_ms", 1000, 12000},
		{"j", "forged_status", 400, 400},
		{"j", "event_to_first_packet_ms", 0.1, 2000},
		{"k", "altered_status", 401, 401},
		{"k", "offered_after_commit", 100, 1e6},
		{"k", "passed_after_commit", 0, 0},
		{"k", "report_to_last_packet_ms", -1000, 5000},
		{"k", "answer_to_last_packet_ms", -5000, 1000},
		{"k", "replay_status", 202, 202},
		{"l", "tried_devices", 3, 3}, // dev1, dev2 and the one that used a code up
		{"l", "tried_moves", 1, 1},
		{"l", "messages_after_trial", 20, 1e6},
		{"l", "messages_after_assignment", 20, 1e6},
		{"l", "posture_to_last_packet_ms", -1000, 2000},
		{"l", "posture_passed_after_commit", 0, 0},
		{"l", "mended_to_first_packet_ms", 0.1, 5000},
		{"m", "offered_to_intranet", 200, 1e6},
		{"m", "offered_to_management", 2, 1e6},
		{"m", "passed_after_answer", 0, 0},
		{"m", "handshakes_answered", 0, 0},
	} {
		if n := steps[want.step].number(t, want.key); n < want.least || n > want.most {
			t.Errorf("step %s: %s is %v, want %v to %v", want.step, want.key, n, want.least, want.most)
		}
	}
	for _, id := range []string{"g", "l"} { // beyond what the same session took through another gateway
		if gap := steps[id].number(t, "session_longest_gap_ms") - steps[id].number(t, "witness_longest_gap_ms"); gap > 1000 {
			t.Errorf("step %s: the session was without a message for %v ms more than its witness", id, gap)
		}
	}
	if got := steps["k"]["stage_after_replay"]; got != "quarantined" {
		t.Errorf("after a replayed event dev1 is %v", got)
	}
	rule, _ := steps["l"]["rule"].(map[string]any)
	for key, want := range map[string]any{"set": "laptops", "version": 1.0, "rule": "firewall", "fact": "firewall.enabled", "holds": false,
		"report_of": "agent", "remedy": "Turn the firewall on.", "stage": "quarantined"} {
		if rule[key] != want {
			t.Errorf("explain: %s is %v, want %v", key, rule[key], want)
		}
	}
}

// A step that checked nothing, one that failed a check, and one that broke off are not ok.
func TestVerdicts(t *testing.T) {
	if (&result{}).ok() {
		t.Error("a step that checked nothing is ok")
	}
	r := &result{}
	r.check(true, "one")
	if !r.ok() {
		t.Error("a step whose only check held is not ok")
	}
	r.check(false, "two of %d", 2)
	if r.ok() {
		t.Error("a step with a failed check is ok")
	}
}

// The JSON form is one object per line, with durations in milliseconds, and the summary
// names what failed.
func TestPrinterJSON(t *testing.T) {
	var out, progress bytes.Buffer
	p := &printer{out: &out, errs: &progress, json: true, started: time.Now(), broken: errors.New("no lab")}
	r := &result{}
	r.figure("took_ms", 1500*time.Microsecond)
	r.check(true, "this")
	r.check(false, "that")
	p.begin("x", "Title")
	p.progress("half way")
	p.end("x", "Title", r, 2*time.Second)
	p.summary(false)
	got := readObjects(t, out.Bytes())
	if len(got) != 2 {
		t.Fatalf("%d objects in %s", len(got), out.String())
	}
	step, sum := got[0], got[1]
	if step["step"] != "x" || step["ok"] != false || step["took_ms"] != 1.5 || step["seconds"] != 2.0 {
		t.Errorf("step: %v", step)
	}
	if list, _ := step["failed"].([]any); len(list) != 1 || list[0] != "that" {
		t.Errorf("failed: %v", step["failed"])
	}
	if sum["summary"] != true || sum["ok"] != false || sum["error"] != "no lab" {
		t.Errorf("summary: %v", sum)
	}
	if !strings.Contains(progress.String(), "half way") {
		t.Errorf("progress: %q", progress.String())
	}
}

// An altered code reads as well as the true one and has another secret.
func TestAlter(t *testing.T) {
	good, err := code.Draw(bytes.NewReader(bytes.Repeat([]byte{0x42, 0x17, 0xa9, 0x3c, 0xee}, 100)))
	if err != nil {
		t.Fatal(err)
	}
	text, err := alter(good)
	if err != nil {
		t.Fatal(err)
	}
	p, err := code.Parse(text)
	if err != nil || p.Reference != good.Reference || p.Secret == good.Secret {
		t.Errorf("altered code %s: %v", p.Reference, err)
	}
}

// A message laid out by hand after linux/netfilter/nf_tables.h: a set of one IPv4 address
// with 2,500 ms left.
func TestReadElements(t *testing.T) {
	message := slices.Concat(
		[]byte{1, 0, 0, 0},                         // nfgenmsg
		[]byte{12, 0, 1, 0}, []byte("lazaret\x00"), // table
		[]byte{12, 0, 2, 0}, []byte("routed4\x00"), // set
		[]byte{36, 0, 3, 0x80},                           // elements
		[]byte{32, 0, 1, 0x80},                           // one element
		[]byte{12, 0, 5, 0, 0, 0, 0, 0, 0, 0, 9, 0xc4},   // expiration, 64 bits
		[]byte{12, 0, 1, 0x80, 8, 0, 1, 0, 10, 67, 0, 2}, // key
		[]byte{4, 0, 9, 0},                               // something else
	)
	set, list, err := readElements(message)
	if err != nil || set != "routed4" || len(list) != 1 {
		t.Fatalf("%q %v %v", set, list, err)
	}
	if !bytes.Equal(list[0].key, []byte{10, 67, 0, 2}) || list[0].left != 2500*time.Millisecond {
		t.Errorf("%+v", list[0])
	}
	for n := range message {
		if _, _, err := readElements(message[:n]); n < 4 && err == nil {
			t.Errorf("%d bytes were read", n)
		}
	}
}

// What the demo signs as a transmitter is read by another implementation.
func TestComplianceToken(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	at := time.Now().Add(-time.Minute)
	text, err := complianceToken(key, "d-1", "compliant", at)
	if err != nil {
		t.Fatal(err)
	}
	claims := jwt.MapClaims{}
	token, err := jwt.ParseWithClaims(string(text), claims, func(*jwt.Token) (any, error) { return &key.PublicKey, nil }, jwt.WithValidMethods([]string{"ES256"}))
	if err != nil || token.Header["typ"] != "secevent+jwt" || claims["iss"] != transmitter || claims["aud"] != audience {
		t.Fatalf("%v: %v", err, claims)
	}
	events, _ := claims["events"].(map[string]any)
	event, _ := events[complianceType].(map[string]any)
	if event["current_status"] != "compliant" || event["event_timestamp"] != float64(at.Unix()) {
		t.Errorf("events %v", events)
	}
}

// The example of the Standard Webhooks specification.
func TestHookSignature(t *testing.T) {
	key, err := base64.StdEncoding.DecodeString("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	if err != nil {
		t.Fatal(err)
	}
	got := hook{key: key}.signature("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", []byte(`{"test": 2432232314}`))
	if want := "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="; got != want {
		t.Errorf("signature %s, want %s", got, want)
	}
}

// dev1's own tables are, as nft sees them, what firewallOn and deafOn say.
func TestOwnFirewall(t *testing.T) {
	nft := testneed.Program(t, "nft")
	testneed.Namespaces(t)
	lab, err := testnet.Start(t.Context(), testnet.Config{Log: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lab.Close() })
	host, err := lab.AddHost(t.Context(), "dev1")
	if err != nil {
		t.Fatal(err)
	}
	on := []string{"table inet laptop {", "chain input {", "type filter hook input priority filter; policy drop;", "ct state established,related accept", "}", "}"}
	deaf := []string{"table inet deaf {", "chain input {", "type filter hook input priority filter; policy accept;", "tcp sport 8444 drop", "}", "}"}
	for _, step := range []struct {
		table, to string
		want      []string
	}{{ownTable, "on", on}, {ownTable, "off", nil}, {ownTable, "on", on}, {deafTable, "on", slices.Concat(on, deaf)}, {deafTable, "off", on}} {
		var done string
		if err := once(t.Context(), host, "firewall", "", &done, step.table, step.to); err != nil {
			t.Fatal(err)
		}
		p, err := host.Command(t.Context(), nft, "list", "ruleset")
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		got := strings.FieldsFunc(strings.ReplaceAll(p.Output(), "\t", ""), func(r rune) bool { return r == '\n' })
		if !slices.Equal(got, step.want) {
			t.Errorf("%s %s: nft prints %q, want %q", step.table, step.to, got, step.want)
		}
	}
}

// Unknown flags and arguments are refused before anything is started.
func TestArguments(t *testing.T) {
	for _, args := range [][]string{{"--nothing"}, {"a"}, {"--json", "x"}} {
		var out bytes.Buffer
		if code := run(context.Background(), args, &out, t.Output()); code != 2 || out.Len() > 0 {
			t.Errorf("%v: status %d, %s", args, code, out.String())
		}
	}
}
