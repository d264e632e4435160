package agentapi

import (
	"encoding/json"
	"strings"
	"testing"
)

// FuzzWakeup: whatever is read is written again as it was, and nothing is accepted that no
// signer made.
func FuzzWakeup(f *testing.F) {
	key := newKey()
	f.Add(must(wakeup().Sign(key)))
	f.Add("")
	f.Add(strings.Repeat("A", MaxWake))
	f.Fuzz(func(t *testing.T, text string) {
		w, err := ParseWakeup(text)
		if err != nil {
			return
		}
		if len(w.Device) == 0 || len(w.Device) > maxDevice || len(text) > MaxWake {
			t.Errorf("read %+v from %q", w, text)
		}
		other := Signer{Key: newKey().Public(), ID: w.Signer}
		if w.Verify(other, w.Device, 0, w.Time) == nil {
			t.Errorf("accepted %q", text)
		}
	})
}

// FuzzSigned: the readers of commands and results hold to their bounds, also where the
// signature is good.
func FuzzSigned(f *testing.F) {
	key := newKey()
	for _, v := range []any{command(), result(), Command{}, Result{}} {
		f.Add(must(json.Marshal(v)))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		s := Signed{payload, must(sign(key, domainCommand, payload))}
		if c, err := OpenCommand(s, signerOf(key), "d-1", session); err == nil {
			if c.Device != "d-1" || c.ID == "" || c.Sequence == 0 || len(c.Args) > 8 || len(payload) > MaxSigned {
				t.Errorf("took %+v", c)
			}
			_ = CheckArgs(c.Kind, c.Args)
		}
		if _, err := OpenResult(s, key.Public(), "d-1", session); err == nil {
			t.Error("a command passed as a result")
		}
		s = Signed{payload, must(sign(key, domainResult, payload))}
		if r, err := OpenResult(s, key.Public(), "d-1", session); err == nil && (len(r.Detail) > MaxText || r.Command == "" || r.Sequence == 0 || r.Sequence > MaxSequence) {
			t.Errorf("took %+v", r)
		}
	})
}

// FuzzSession: the messages that open a session and go on in it.
func FuzzSession(f *testing.F) {
	h, w, binding := handshake()
	key := newKey()
	if err := w.Sign(key, binding, h); err != nil {
		f.Fatal(err)
	}
	for _, v := range []any{h, w, Exchange{Session: session, Number: 1, Results: []Signed{must(result().Sign(key))}}, Orders{Number: 1, Taken: []string{"c-1"}}} {
		f.Add(must(json.Marshal(v)))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var h2 Hello
		if json.Unmarshal(text, &h2) == nil && h2.Check() == nil && (h2.Sequence == 0 || len(h2.Nonce) != nonceLength) {
			t.Errorf("took %+v", h2)
		}
		var x Exchange
		if json.Unmarshal(text, &x) == nil && x.Check() == nil && (len(x.Results) > MaxTogether || x.Number == 0) {
			t.Errorf("took %+v", x)
		}
		var w2 Welcome
		if json.Unmarshal(text, &w2) == nil {
			_ = w2.Verify(signerOf(newKey()), binding, h)
			if w2.Verify(signerOf(newKey()), binding, h) == nil {
				t.Error("believed a welcome that nobody signed")
			}
		}
		var o Orders
		if json.Unmarshal(text, &o) == nil {
			_ = o.Check(1)
		}
	})
}
