package webhook

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"

	"lazaret/quarantine"
)

// FuzzParse: whatever is signed is bounded, and what is taken says one thing only.
func FuzzParse(f *testing.F) {
	for _, s := range []string{good, `{"reports":[` + good + `]}`, `{"event":"ping"}`, `{"reports":[]}`, `{"reports":[{}]}`, `[]`, `{"device":"a","device":"b"}`,
		`{"device":"a","verdict":"noncompliant","at":"0000-01-01T00:00:00Z","sequence":18446744073709551615}`, `{"a":{"b":{"c":{"d":{"e":{}}}}}}`, "\xff", `{"facts":null}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		m, err := parse(body)
		if err != nil {
			if m.ping || err.Error() == "" {
				t.Error("refused, and taken")
			}
			return
		}
		if m.ping == (len(m.reports) > 0) || len(m.reports) > maxReports {
			t.Fatalf("a ping: %v, with %d reports", m.ping, len(m.reports))
		}
		var generic any
		if err := json.Unmarshal(body, &generic); err != nil {
			t.Fatalf("taken, and no JSON: %v", err)
		}
		if _, object := generic.(map[string]any); !object {
			t.Fatal("taken, and no object")
		}
		for _, r := range m.reports {
			if r.problem != nil {
				continue
			}
			if r.device == "" || len(r.device) > 200 || r.At.IsZero() || r.Validity < 0 || len(r.Facts) > 64 || len(r.Detail) > 1024 ||
				r.Verdict != quarantine.Compliant && r.Verdict != quarantine.NonCompliant || r.Report.Device != "" || r.Source != "" {
				t.Fatalf("taken: %+v", r)
			}
		}
	})
}

// FuzzHead: headers that are read have one form only, so that what was signed is what is read.
func FuzzHead(f *testing.F) {
	h := http.Header{}
	Sign(h, "msg_1", time.Unix(1772366400, 0), []byte("{}"), NewSecret())
	f.Add("msg_1", "1772366400", h.Get(HeaderSignature))
	f.Add("a.b", "01", "v1,")
	f.Add("", "-1", "v1a,x v2,y")
	f.Fuzz(func(t *testing.T, id, stamp, signature string) {
		got, err := parseHead(http.Header{HeaderID: {id}, HeaderTime: {stamp}, HeaderSignature: {signature}})
		if err != nil {
			return
		}
		if got.id != id || fmt.Sprint(got.at.Unix()) != stamp || bytes.ContainsRune([]byte(id), '.') || len(got.signatures) == 0 || len(got.signatures) > mostSigned {
			t.Fatalf("%q %q %q is read as %+v", id, stamp, signature, got)
		}
		if got.signed([]byte("{}"), []Secret{NewSecret(), {}}) {
			t.Fatal("signed by a key that was drawn just now")
		}
	})
}
