package intune

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"lazaret/quarantine"
	"lazaret/quarantine/source/polltest"
)

type device map[string]any

// aDevice is one of "List managedDevices" of Microsoft Graph v1.0, with the fields selected.
func aDevice(n int, state string) device {
	return device{
		"@odata.type": "#microsoft.graph.managedDevice", "id": fmt.Sprintf("705c034c-034c-705c-4c03-%012d", n), "deviceName": fmt.Sprintf("WIN-%d", n),
		"serialNumber": fmt.Sprintf("INTUNE%05d", n), "complianceState": state, "lastSyncDateTime": "2026-11-22T06:02:49.3205976+00:00",
		"complianceGracePeriodExpirationDateTime": "9999-12-31T23:59:59.9999999Z", "isEncrypted": true, "jailBroken": "Unknown", "operatingSystem": "Windows",
		"osVersion": "10.0.26100.2314", "model": "ThinkPad X1", "manufacturer": "LENOVO", "managementAgent": "mdm", "deviceEnrollmentType": "windowsAutoEnrollment",
	}
}

// standIn answers as the identity platform and Graph do; both on one host.
type standIn struct {
	polltest.Server
	devices []device
	size    int // of a page
	asked   []string
	link    func(r *http.Request, skip int) string
	on      func(w http.ResponseWriter, skip int) bool
}

func newStandIn(devices ...device) *standIn {
	s := &standIn{devices: devices, size: 1000}
	s.Path, s.Pages = "/contoso.example/oauth2/v2.0/token", s.answer
	s.Form = func(r *http.Request) bool {
		return r.FormValue("client_id") == "app-1" && r.FormValue("client_secret") == "se-cret~1" && strings.HasSuffix(r.FormValue("scope"), "/.default")
	}
	s.link = func(r *http.Request, skip int) string {
		return fmt.Sprintf("https://%s/v1.0/deviceManagement/managedDevices?$select=id&$skiptoken=%d", r.Host, skip)
	}
	return s
}

func (s *standIn) answer(w http.ResponseWriter, r *http.Request) {
	s.asked = append(s.asked, r.URL.String())
	skip, _ := strconv.Atoi(r.URL.Query().Get("$skiptoken"))
	if r.URL.Path != "/v1.0/deviceManagement/managedDevices" || r.URL.Query().Get("$select") == "" {
		http.NotFound(w, r)
		return
	}
	if s.on != nil && s.on(w, skip) {
		return
	}
	to := min(skip+s.size, len(s.devices))
	page := map[string]any{"@odata.context": "https://graph.microsoft.com/v1.0/$metadata#deviceManagement/managedDevices", "@odata.count": to - skip, "value": s.devices[skip:to]}
	if to < len(s.devices) {
		page["@odata.nextLink"] = s.link(r, to)
	}
	_ = json.NewEncoder(w).Encode(page)
}

func newLab(t *testing.T, s *standIn, more map[string]any, devices ...quarantine.Record) *polltest.Lab {
	t.Helper()
	settings := map[string]any{"tenant": "contoso.example", "client_id": "app-1", "login": "URL"}
	for k, v := range more {
		settings[k] = v
	}
	return polltest.New(t, Kind, settings, map[string]string{"client_secret": "se-cret~1"}, s, devices...)
}

// TestStates goes through every value of complianceState.
func TestStates(t *testing.T) {
	for state, want := range map[string]quarantine.Verdict{
		"compliant": quarantine.Compliant, "noncompliant": quarantine.NonCompliant, "conflict": quarantine.NonCompliant, "inGracePeriod": quarantine.NonCompliant,
		"unknown": "", "error": "", "configManager": "",
	} {
		l := newLab(t, newStandIn(aDevice(1, state)), nil, polltest.Device("dev1", "INTUNE00001"))
		l.Must()
		n := l.Gate.Last("dev1")
		if n.Verdict != want || l.Gate.Released("dev1") != (state == "compliant") || !strings.Contains(n.Detail, state) || l.Problem() != "" {
			t.Errorf("%s: %+v, problem %q", state, n, l.Problem())
		}
		if !n.At.Equal(time.Date(2026, 11, 22, 6, 2, 49, 320597600, time.UTC)) {
			t.Errorf("%s: dated %s, not by the last sync", state, n.At)
		}
	}
	l := newLab(t, newStandIn(aDevice(1, "Compliant")), nil, polltest.Device("dev1", "INTUNE00001"))
	l.Must()
	if l.Gate.Released("dev1") || !strings.Contains(l.Problem(), `"complianceState" has the unheard-of value`) {
		t.Errorf("%+v, problem %q", l.Gate.Last("dev1"), l.Problem())
	}
}

// TestGrace: a device in its grace period is compliant only where that is wanted, and then
// until that ends.
func TestGrace(t *testing.T) {
	d := aDevice(1, "inGracePeriod")
	d["complianceGracePeriodExpirationDateTime"] = "2026-11-22T15:00:00Z"
	l := newLab(t, newStandIn(d), map[string]any{"in_grace": true}, polltest.Device("dev1", "INTUNE00001"))
	l.Must()
	if !l.Gate.Released("dev1") {
		t.Errorf("%+v", l.Gate.Last("dev1"))
	}
	l.At = l.At.Add(3*time.Hour + time.Second)
	if l.Gate.Released("dev1") {
		t.Error("released after the grace period")
	}
	for _, until := range []any{"2026-11-22T01:00:00Z", nil} {
		d["complianceGracePeriodExpirationDateTime"] = until
		l := newLab(t, newStandIn(d), map[string]any{"in_grace": true}, polltest.Device("dev1", "INTUNE00001"))
		if l.Must(); l.Gate.Released("dev1") {
			t.Errorf("released in a grace period until %v", until)
		}
	}
}

func TestFactsAndAge(t *testing.T) {
	d := aDevice(1, "compliant")
	d["jailBroken"] = "False"
	s := newStandIn(d)
	l := newLab(t, s, nil, polltest.Device("dev1", "intune00001"))
	l.Must()
	want := map[string]string{
		"os.name": "windows", "os.version": "10.0.26100.2314", "device.serial": "INTUNE00001", "device.model": "ThinkPad X1", "device.manufacturer": "LENOVO",
		"disk.encrypted": "true", "device.jailbroken": "false", "custom.intune.agent": "mdm", "custom.intune.enrollment": "windowsAutoEnrollment",
		"mdm.compliant": "true", "mdm.enrolled": "true", "device.managed": "true", "mdm.last_seen": "2026-11-22T06:00:00Z",
	}
	if n := l.Gate.Last("dev1"); fmt.Sprint(n.Facts) != fmt.Sprint(want) {
		t.Errorf("facts are %v, want %v", n.Facts, want)
	}
	d["lastSyncDateTime"] = "2026-11-21T11:00:00Z"
	l = newLab(t, s, nil, polltest.Device("dev1", "INTUNE00001"))
	if l.Must(); l.Gate.Released("dev1") || l.Gate.Last("dev1").Verdict != quarantine.Compliant {
		t.Error("released by a sync of yesterday")
	}
	d["lastSyncDateTime"] = "0001-01-01T00:00:00Z"
	l = newLab(t, s, nil, polltest.Device("dev1", "INTUNE00001"))
	if l.Must(); l.Gate.Released("dev1") || l.Problem() != "" {
		t.Errorf("released although it never synced, problem %q", l.Problem())
	}
	d["lastSyncDateTime"] = "2027-01-01T00:00:00Z"
	l = newLab(t, s, nil, polltest.Device("dev1", "INTUNE00001"))
	if l.Must(); l.Gate.Released("dev1") || !strings.Contains(l.Problem(), "dated ahead") {
		t.Errorf("released by a sync next year, problem %q", l.Problem())
	}
}

// TestTenThousandDevices in pages by nextLink, with one token.
func TestTenThousandDevices(t *testing.T) {
	const n = 10_000
	s := newStandIn()
	records := make([]quarantine.Record, n)
	for i := range n {
		s.devices, records[i] = append(s.devices, aDevice(i, "compliant")), polltest.Device(fmt.Sprint("dev", i), fmt.Sprintf("INTUNE%05d", i))
	}
	l := newLab(t, s, nil, records...)
	l.Must()
	if len(s.asked) != 10 || s.Tokens != 1 || len(l.Gate.Calls) != 1 || l.Gate.Calls[0] != n || !l.Gate.Released("dev9999") || l.Problem() != "" {
		t.Errorf("%d requests, %d tokens, reports %v, problem %q", len(s.asked), s.Tokens, l.Gate.Calls, l.Problem())
	}
}

// TestLinksLeadNowhereElse: the token goes to no other host, whatever a page says.
func TestLinksLeadNowhereElse(t *testing.T) {
	for _, to := range []string{"https://evil.example.com/v1.0/deviceManagement/managedDevices?$skiptoken=1", "http://%s/x", "//evil.example.com/x", " "} {
		s := newStandIn(aDevice(1, "compliant"), aDevice(2, "compliant"))
		s.size = 1
		s.link = func(r *http.Request, _ int) string {
			if strings.Contains(to, "%s") {
				return fmt.Sprintf(to, r.Host)
			}
			return to
		}
		l := newLab(t, s, nil, polltest.Device("dev1", "INTUNE00001"))
		if err := l.Round(); err == nil || !strings.Contains(err.Error(), "does not lead to itself") || len(s.asked) != 1 || !l.Gate.Released("dev1") {
			t.Errorf("%s: %v", to, err)
		}
	}
	s := newStandIn(aDevice(1, "compliant"), aDevice(2, "compliant"))
	s.size = 1
	s.link = func(r *http.Request, _ int) string { return fmt.Sprintf("https://%s%s", r.Host, r.URL) } // to itself
	l := newLab(t, s, nil)
	if err := l.Round(); err == nil || !strings.Contains(err.Error(), "same page") {
		t.Errorf("a link in a circle: %v", err)
	}
}

// TestThrottledAndExpired: 429 on a page is waited for, a token that is taken back is replaced.
func TestThrottledAndExpired(t *testing.T) {
	s := newStandIn(aDevice(1, "compliant"), aDevice(2, "compliant"), aDevice(3, "compliant"))
	s.size = 1
	turned := 0
	s.on = func(w http.ResponseWriter, skip int) bool {
		switch {
		case skip == 1 && turned == 0:
			turned++
			w.Header().Set("Retry-After", "10")
			w.WriteHeader(http.StatusTooManyRequests)
			_, _ = w.Write([]byte(`{"error":{"code":"TooManyRequests","message":"","innerError":{"request-id":"x","date":"2026-11-22T12:00:00"}}}`))
			return true
		case skip == 2 && turned == 1:
			turned++
			s.Valid = "taken back"
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
		return false
	}
	l := newLab(t, s, nil, polltest.Device("dev3", "INTUNE00003"))
	l.Must()
	if len(l.Waits) != 1 || l.Waits[0] != 10*time.Second || s.Tokens != 2 || !l.Gate.Released("dev3") {
		t.Errorf("waited %v, %d tokens", l.Waits, s.Tokens)
	}
	l.At = l.At.Add(time.Hour) // past expires_in
	if l.Must(); s.Tokens != 3 {
		t.Errorf("%d tokens after an hour", s.Tokens)
	}
	s.Form = func(*http.Request) bool { return false }
	l.At = l.At.Add(time.Hour)
	if err := l.Round(); err == nil || !strings.Contains(l.Problem(), "obtaining a token") || strings.Contains(l.Problem(), "se-cret") {
		t.Errorf("%v, problem %q", err, l.Problem())
	}
}

// TestSchemaChange: what is missing or mistyped is named, and its device unknown.
func TestSchemaChange(t *testing.T) {
	for field, change := range map[string]func(device){
		`"complianceState" is missing`:  func(d device) { delete(d, "complianceState") },
		`"complianceState" is no text`:  func(d device) { d["complianceState"] = 1 },
		`"lastSyncDateTime" is missing`: func(d device) { d["lastSyncDateTime"] = nil },
		`"lastSyncDateTime" is no time`: func(d device) { d["lastSyncDateTime"] = "22.11.2026" },
		`"id" is missing`:               func(d device) { delete(d, "id") },
		`"deviceName" is no text`:       func(d device) { d["deviceName"] = []string{} },
	} {
		s := newStandIn(aDevice(1, "compliant"))
		l := newLab(t, s, nil, polltest.Device("dev1", "INTUNE00001"))
		l.Must()
		if !l.Gate.Released("dev1") {
			t.Fatal("not released to begin with")
		}
		change(s.devices[0])
		l.Must()
		if l.Gate.Released("dev1") || !strings.Contains(l.Problem(), field) {
			t.Errorf("%s: %+v, problem %q", field, l.Gate.Last("dev1"), l.Problem())
		}
	}
	for what, body := range map[string]string{
		"no value": `{"@odata.context":"x"}`, "value null": `{"value":null}`, "value object": `{"value":{}}`, "link no text": `{"value":[],"@odata.nextLink":1}`,
		"link empty": `{"value":[],"@odata.nextLink":""}`, "cut": `{"value":[{"id":"1"`,
	} {
		s := newStandIn()
		s.on = func(w http.ResponseWriter, _ int) bool {
			_, _ = w.Write([]byte(body))
			return true
		}
		if err := newLab(t, s, nil).Round(); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
}

// TestDuplicates: a device that stands there twice is as good as the worse of both.
func TestDuplicates(t *testing.T) {
	old := aDevice(2, "noncompliant")
	old["serialNumber"], old["lastSyncDateTime"] = "INTUNE00001", "2026-11-20T06:00:00Z"
	l := newLab(t, newStandIn(aDevice(1, "compliant"), old), nil, polltest.Device("dev1", "INTUNE00001"))
	if l.Must(); l.Gate.Released("dev1") || !strings.Contains(l.Gate.Last("dev1").Detail, "2 hosts") {
		t.Errorf("%+v", l.Gate.Last("dev1"))
	}
}

func TestSettings(t *testing.T) {
	for text, ok := range map[string]bool{
		`{"tenant":"contoso.example","client_id":"a"}`: true,
		`{"tenant":"contoso.example","client_id":"a","url":"https://graph.microsoft.us","login":"https://login.microsoftonline.us"}`: true,
		`{"client_id":"a"}`: false, `{"tenant":"contoso.example"}`: false, `{"tenant":"../common","client_id":"a"}`: false, `{"tenant":"a/b","client_id":"a"}`: false,
		`{"tenant":"contoso.example","client_id":"a","login":"http://login"}`: false, `{"tenant":"contoso.example","client_id":"a","url":"http://graph"}`: false,
	} {
		if _, err := Kind.Make([]byte(text), map[string]string{"client_secret": "x"}); (err == nil) != ok {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func FuzzReadPage(f *testing.F) {
	for _, state := range []string{"compliant", "inGracePeriod", "unknown"} {
		page, _ := json.Marshal(map[string]any{"value": []device{aDevice(1, state)}, "@odata.nextLink": "https://graph.microsoft.com/next"})
		f.Add(page)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		hosts, _, err := (&Intune{grace: true}).ReadPage(body)
		for _, h := range hosts {
			if err != nil || h.Fault == "" && h.ID == "" || h.Validity < 0 || h.Verdict == quarantine.Compliant && h.Validity == 0 && !strings.Contains(string(body), "compliant") {
				t.Errorf("%+v, %v", h, err)
			}
		}
	})
}
