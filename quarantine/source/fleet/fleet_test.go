package fleet

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"lazaret/quarantine"
	"lazaret/quarantine/source/poll"
	"lazaret/quarantine/source/polltest"
)

// host is one of "List hosts" in Fleet's "REST API", with populate_policies=true.
type host map[string]any

func aHost(n int, responses ...string) host {
	policies := []any{}
	for i, r := range responses {
		policies = append(policies, map[string]any{
			"id": i + 1, "name": []string{"Disk is encrypted", "Firewall is on", "Recent macOS"}[i], "query": "SELECT 1;", "description": "", "resolution": "",
			"platform": "darwin", "response": r, "critical": false,
		})
	}
	return host{
		"created_at": "2026-01-05T05:09:44Z", "updated_at": "2026-11-22T11:55:00Z", "id": n, "detail_updated_at": "2026-11-22T11:40:00Z",
		"policy_updated_at": "2026-11-22T11:30:00Z", "label_updated_at": "2026-11-22T11:30:00Z", "seen_time": "2026-11-22T11:59:00Z", "last_enrolled_at": "2026-01-05T05:09:44Z",
		"hostname": fmt.Sprintf("mac-%d.local", n), "uuid": fmt.Sprintf("392547dc-0000-0000-a87a-%012d", n), "platform": "darwin", "osquery_version": "5.19.0",
		"os_version": "macOS 15.1.1", "hardware_vendor": "Apple Inc.", "hardware_model": "MacBookPro18,3", "hardware_serial": fmt.Sprintf("FLEET%05d", n),
		"computer_name": fmt.Sprintf("mac-%d", n), "display_name": fmt.Sprintf("mac-%d", n), "status": "online", "team_id": nil,
		"issues": map[string]any{"failing_policies_count": 0, "total_issues_count": 0}, "mdm": map[string]any{"enrollment_status": "On (automatic)", "name": "Fleet"},
		"policies": policies,
	}
}

// standIn answers as Fleet does.
type standIn struct {
	polltest.Server
	hosts []host
	asked []string
	on    func(w http.ResponseWriter, page int) bool // answers instead, if true
	most  int                                        // hosts on a page, whatever is asked
}

func newStandIn(hosts ...host) *standIn {
	s := &standIn{hosts: hosts, most: 1 << 30}
	s.Valid, s.Pages = "tok-en-of-fleet", s.answer
	return s
}

func (s *standIn) answer(w http.ResponseWriter, r *http.Request) {
	s.asked = append(s.asked, r.URL.String())
	if id, ok := strings.CutPrefix(r.URL.Path, "/api/v1/fleet/hosts/"); ok {
		for _, h := range s.hosts {
			if fmt.Sprint(h["id"]) == id {
				h["disk_encryption_enabled"] = true // in "Get host" alone
				_ = json.NewEncoder(w).Encode(map[string]any{"host": h})
				return
			}
		}
		http.NotFound(w, r)
		return
	}
	q := r.URL.Query()
	page, _ := strconv.Atoi(q.Get("page"))
	per, _ := strconv.Atoi(q.Get("per_page"))
	if r.URL.Path != "/api/v1/fleet/hosts" || q.Get("populate_policies") != "true" || per < 1 {
		http.NotFound(w, r)
		return
	}
	if s.on != nil && s.on(w, page) {
		return
	}
	per = min(per, s.most)
	from, to := min(page*per, len(s.hosts)), min((page+1)*per, len(s.hosts))
	_ = json.NewEncoder(w).Encode(map[string]any{"hosts": s.hosts[from:to]})
}

func newLab(t *testing.T, s *standIn, settings map[string]any, devices ...quarantine.Record) *polltest.Lab {
	t.Helper()
	return polltest.New(t, Kind, settings, map[string]string{"token": "tok-en-of-fleet"}, s, devices...)
}

func TestVerdicts(t *testing.T) {
	old := aHost(1, "pass")
	old["policy_updated_at"] = "2026-11-22T09:00:00Z"
	never := aHost(1, "pass")
	never["policy_updated_at"] = "2000-01-01T00:00:00Z"
	unseen := aHost(1, "pass")
	unseen["seen_time"] = "2026-11-21T09:00:00Z"
	for what, c := range map[string]struct {
		host     host
		policies []string
		released bool
		detail   string
	}{
		"all pass":              {aHost(1, "pass", "pass"), nil, true, ""},
		"one fails":             {aHost(1, "pass", "fail"), nil, false, "Firewall is on"},
		"one has not run":       {aHost(1, "pass", ""), nil, false, "Firewall is on"},
		"no policy":             {aHost(1), nil, false, "no policy"},
		"another fails":         {aHost(1, "pass", "fail"), []string{"Disk is encrypted"}, true, ""},
		"by number":             {aHost(1, "pass", "fail"), []string{"2"}, false, "Firewall is on"},
		"listed, not on host":   {aHost(1, "pass"), []string{"Firewall is on"}, false, "Firewall is on"},
		"three hours old":       {old, nil, false, ""},
		"never run":             {never, nil, false, "never in contact"},
		"run, and seen no more": {unseen, nil, false, ""},
	} {
		s := newStandIn(c.host)
		l := newLab(t, s, map[string]any{"policies": c.policies}, polltest.Device("dev1", "FLEET00001"))
		l.Must()
		n := l.Gate.Last("dev1")
		if l.Gate.Released("dev1") != c.released || !strings.Contains(n.Detail, c.detail) || l.Problem() != "" {
			t.Errorf("%s: released is %v, %+v, problem %q", what, l.Gate.Released("dev1"), n, l.Problem())
		}
	}
}

func TestFacts(t *testing.T) {
	l := newLab(t, newStandIn(aHost(1, "pass", "fail", "")), nil, polltest.Device("dev1", "fleet00001"))
	l.Must()
	n := l.Gate.Last("dev1")
	want := map[string]string{
		"os.name": "macos", "os.version": "15.1.1", "device.serial": "FLEET00001", "device.model": "MacBookPro18,3", "device.manufacturer": "Apple Inc.",
		"fleet.policy.disk_is_encrypted": "pass", "fleet.policy.firewall_is_on": "fail", "fleet.policy.recent_macos": "unknown",
		"mdm.compliant": "false", "mdm.enrolled": "true", "device.managed": "true", "mdm.last_seen": "2026-11-22T11:30:00Z",
	}
	if fmt.Sprint(n.Facts) != fmt.Sprint(want) {
		t.Errorf("facts are %v, want %v", n.Facts, want)
	}
	if !n.At.Equal(time.Date(2026, 11, 22, 11, 30, 0, 0, time.UTC)) {
		t.Errorf("dated %s, not by when its policies ran", n.At)
	}
}

// TestPages: a server that gives less than it is asked for is asked on; it ends with nothing.
func TestPages(t *testing.T) {
	var hosts []host
	var devices []quarantine.Record
	for n := range 1050 {
		hosts, devices = append(hosts, aHost(n+1, "pass")), append(devices, polltest.Device(fmt.Sprint("dev", n+1), fmt.Sprintf("FLEET%05d", n+1)))
	}
	for most, requests := range map[int]int{1 << 30: 7, 100: 12} {
		s := newStandIn(hosts...)
		s.most = most
		l := newLab(t, s, nil, devices...)
		l.Must()
		if len(s.asked) != requests || !l.Gate.Released("dev1050") || !l.Gate.Released("dev1") || l.Gate.Told() != 1050 {
			t.Errorf("pages of %d: %d requests, %d reports", most, len(s.asked), l.Gate.Told())
		}
	}
	s := newStandIn(hosts...)
	s.on = func(w http.ResponseWriter, _ int) bool {
		_ = json.NewEncoder(w).Encode(map[string]any{"hosts": hosts[:10]})
		return true
	}
	if err := newLab(t, s, nil, devices...).Round(); err == nil || !strings.Contains(err.Error(), "same page") {
		t.Errorf("a server without pages: %v", err)
	}
}

func TestThrottledThenBroken(t *testing.T) {
	hosts := []host{}
	for n := range 450 {
		hosts = append(hosts, aHost(n+1, "pass"))
	}
	s := newStandIn(hosts...)
	l := newLab(t, s, nil, polltest.Device("dev1", "FLEET00001"), polltest.Device("dev300", "FLEET00300"))
	turned := 0
	s.on = func(w http.ResponseWriter, page int) bool {
		if page == 1 && turned < 2 {
			turned++
			w.Header().Set("Retry-After", "9")
			w.WriteHeader(http.StatusTooManyRequests)
			return true
		}
		return false
	}
	l.Must()
	if len(l.Waits) != 2 || l.Waits[0] != 9*time.Second || !l.Gate.Released("dev300") {
		t.Errorf("waited %v", l.Waits)
	}
	// Cut in the middle of page 1: what came before counts, and nothing is gone.
	l.At = l.At.Add(20 * time.Minute)
	for _, h := range hosts {
		h["policy_updated_at"], h["seen_time"] = "2026-11-22T12:19:00Z", "2026-11-22T12:19:00Z"
	}
	for what, cut := range map[string]string{"truncated": `{"hosts":[{"id":201,"hardware_serial":"FLE`, "no object": `[]`, "no hosts": `{"meta":{}}`, "HTML": `<html>`, "hosts of text": `{"hosts":["a"]}`, "hosts null": `{"hosts":null}`} {
		s.on = func(w http.ResponseWriter, page int) bool {
			if page == 1 {
				_, _ = w.Write([]byte(cut))
			}
			return page == 1
		}
		for range 3 {
			if err := l.Round(); err == nil {
				t.Errorf("%s: no error", what)
			}
		}
		if !l.Gate.Released("dev1") || !l.Gate.Released("dev300") || l.Gate.Last("dev1").At.Hour() != 12 || l.Gate.Last("dev300").At.Hour() != 11 {
			t.Errorf("%s: %v, %v", what, l.Gate.Last("dev1"), l.Gate.Last("dev300"))
		}
	}
}

// TestSchemaChange: a host without a field that its documentation promises is unknown, and
// the field is named.
func TestSchemaChange(t *testing.T) {
	for field, change := range map[string]func(host){
		`"policies" is missing`:                     func(h host) { delete(h, "policies") },
		`"policies" is no list of objects`:          func(h host) { h["policies"] = "pass" },
		`"policies[0].response" has the unheard-of`: func(h host) { h["policies"].([]any)[0].(map[string]any)["response"] = "passed" },
		`"policies[0].response" is missing`:         func(h host) { delete(h["policies"].([]any)[0].(map[string]any), "response") },
		`"policies[0].response" is no text`:         func(h host) { h["policies"].([]any)[0].(map[string]any)["response"] = true },
		`"policies[0].name" is missing`:             func(h host) { delete(h["policies"].([]any)[0].(map[string]any), "name") },
		`"policy_updated_at" is missing`:            func(h host) { delete(h, "policy_updated_at") },
		`"policy_updated_at" is no time`:            func(h host) { h["policy_updated_at"] = "yesterday" },
		`"policy_updated_at" is no text`:            func(h host) { h["policy_updated_at"] = 1763811000 },
		`"seen_time" is missing`:                    func(h host) { h["seen_time"] = nil },
		`"id" is no text or whole number`:           func(h host) { h["id"] = []int{1} },
	} {
		s := newStandIn(aHost(1, "pass"))
		l := newLab(t, s, nil, polltest.Device("dev1", "FLEET00001"))
		l.Must()
		if !l.Gate.Released("dev1") {
			t.Fatal("not released to begin with")
		}
		change(s.hosts[0])
		l.Must()
		if l.Gate.Released("dev1") || l.Gate.Last("dev1").Verdict != "" || !strings.Contains(l.Problem(), field) {
			t.Errorf("%s: %+v, problem %q", field, l.Gate.Last("dev1"), l.Problem())
		}
	}
	s := newStandIn(aHost(1, "pass"))
	s.hosts[0]["hardware_serial"] = 5
	l := newLab(t, s, nil, polltest.Device("dev1", "FLEET00001"))
	if l.Must(); l.Gate.Told() != 0 || !strings.Contains(l.Problem(), "hardware_serial") {
		t.Errorf("a serial number that is none: %d reports, problem %q", l.Gate.Told(), l.Problem())
	}
}

func TestClockAhead(t *testing.T) {
	l := newLab(t, newStandIn(aHost(1, "pass")), nil, polltest.Device("dev1", "FLEET00001"))
	l.Skew = 2 * time.Hour // so the policies ran at 9:30
	l.Must()
	if l.Gate.Released("dev1") || !strings.Contains(l.Problem(), "2h0m0s ahead") {
		t.Errorf("%+v, problem %q", l.Gate.Last("dev1"), l.Problem())
	}
}

func TestCredentialRefused(t *testing.T) {
	s := newStandIn(aHost(1, "pass"))
	s.Valid = "another"
	l := newLab(t, s, nil)
	if err := l.Round(); err == nil || !strings.Contains(l.Problem(), "401") || strings.Contains(l.Problem(), "tok-en") {
		t.Errorf("%v, problem %q", err, l.Problem())
	}
}

func TestOneHost(t *testing.T) {
	s := newStandIn(aHost(7, "pass"))
	l := newLab(t, s, nil)
	one := l.Setup.Product.(poll.Single)
	h, err := one.Host(t.Context(), l.Client, "7")
	if err != nil || h.Verdict != quarantine.Compliant || h.Facts["disk.encrypted"] != "true" || h.ID != "7" {
		t.Errorf("%+v, %v", h, err)
	}
	if _, err := one.Host(t.Context(), l.Client, "8"); err != poll.ErrGone {
		t.Errorf("a host that is not there: %v", err)
	}
	asked := len(s.asked)
	if _, err := one.Host(t.Context(), l.Client, "../users"); err == nil || len(s.asked) != asked {
		t.Errorf("asked %s: %v", s.asked[asked:], err)
	}
}

// TestHook reads the payload of "Automations", policy automations.
func TestHook(t *testing.T) {
	ids, err := ReadHook([]byte(`{"timestamp":"2026-11-22T12:00:00Z","policy":{"id":1,"name":"Is Gatekeeper enabled?","query":"SELECT 1 FROM gatekeeper WHERE assessments_enabled = 1;",
		"passing_host_count":2000,"failing_host_count":300},"hosts":[{"id":1,"hostname":"macbook-1","url":"https://fleet.example.com/hosts/1"},{"id":2,"hostname":"macbook-2","url":"https://fleet.example.com/hosts/2"}]}`))
	if err != nil || fmt.Sprint(ids) != "[1 2]" {
		t.Errorf("%v, %v", ids, err)
	}
	for text, ok := range map[string]bool{`{}`: true, `{"hosts":[{"id":-1},{"id":"x"}]}`: false, `{"hosts":[{"id":-1},{"id":0}]}`: true, ``: false, `[]`: false} {
		if ids, err := ReadHook([]byte(text)); (err == nil) != ok || len(ids) != 0 {
			t.Errorf("%s: %v, %v", text, ids, err)
		}
	}
}

func TestSettings(t *testing.T) {
	good := map[string]string{"token": "x"}
	for text, ok := range map[string]bool{
		`{"url":"https://fleet.example.com"}`: true, `{"url":"https://fleet.example.com","policies":"Disk"}`: true, `{"url":"https://fleet.example.com","policies":["a","b"],"interval":"1m","match":"name"}`: true,
		`{"url":"http://fleet.example.com"}`: false, `{}`: false, `{"url":"https://fleet.example.com","polices":["a"]}`: false, `{"url":"https://fleet.example.com","interval":"1s"}`: false,
		`{"url":"https://fleet.example.com","match":"email"}`: false, `{"url":"https://fleet.example.com","ca":"-"}`: false, `{"url":"https://fleet.example.com","policies":[1]}`: false, `{"url":"https://fleet.example.com"} x`: false,
	} {
		if _, err := Kind.Make([]byte(text), good); (err == nil) != ok {
			t.Errorf("%s: %v", text, err)
		}
	}
	for _, bad := range []map[string]string{nil, {"token": ""}, {"token": "x", "password": "y"}, {"token": "x", "hook": "short"}, {"token": "x\ny"}} {
		if _, err := Kind.Make([]byte(`{"url":"https://fleet.example.com"}`), bad); err == nil {
			t.Errorf("took secrets %v", bad)
		}
	}
}

func FuzzReadPage(f *testing.F) {
	for _, h := range []host{aHost(1, "pass", "fail", ""), aHost(2)} {
		page, _ := json.Marshal(map[string]any{"hosts": []host{h}})
		f.Add(page)
	}
	f.Add([]byte(`{"hosts":[{"id":1,"hardware_serial":"A","policies":[{}]}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		hosts, err := (&Fleet{}).ReadPage(body)
		for _, h := range hosts {
			if err != nil || h.Fault == "" && h.ID == "" || h.Verdict == quarantine.Compliant && h.Fault == "" && h.CheckedIn.IsZero() && len(h.Facts) == 0 {
				t.Errorf("%+v, %v", h, err)
			}
		}
	})
}

func FuzzReadHook(f *testing.F) {
	f.Add([]byte(`{"hosts":[{"id":1},{"id":2}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		ids, _ := ReadHook(body)
		for _, id := range ids {
			if n, err := strconv.ParseInt(id, 10, 64); err != nil || n < 1 {
				t.Errorf("host %q", id)
			}
		}
	})
}

// Names that differ in what a fact's name leaves out, or behind its end, make one fact; in
// whatever order they come, the worse state is told.
func TestPoliciesOfOneFactTellTheWorse(t *testing.T) {
	long := strings.Repeat("x", 48)
	for _, names := range [][2]string{{"Disk: encrypted", "disk encrypted"}, {long + "a", long + "b"}} {
		for _, c := range [][3]string{{"fail", "pass", "fail"}, {"pass", "fail", "fail"}, {"", "pass", "unknown"}, {"pass", "", "unknown"}, {"", "fail", "fail"}, {"pass", "pass", "pass"}} {
			o, err := poll.ReadObject(fmt.Appendf(nil, `{"policies":[{"id":1,"name":%q,"response":%q},{"id":2,"name":%q,"response":%q}]}`, names[0], c[0], names[1], c[1]))
			if err != nil {
				t.Fatal(err)
			}
			h := poll.Host{Facts: map[string]string{}}
			(&Fleet{}).judge(&h, o.Objects("policies"))
			if fact := "fleet.policy." + slug(names[0]); h.Facts[fact] != c[2] || len(h.Facts) != 1 {
				t.Errorf("%q and %q: facts %v, want %s %s", c[0], c[1], h.Facts, fact, c[2])
			}
		}
	}
}
