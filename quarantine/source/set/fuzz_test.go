package set

import (
	"encoding/json"
	"errors"
	"reflect"
	"testing"
)

// FuzzParse: whatever comes is refused with a code, or is a token within the bounds.
func FuzzParse(f *testing.F) {
	keys := keyset(f)
	for _, m := range methods {
		f.Add(sign(f, m, privates()[m.Alg()], nil, claims()))
	}
	f.Add(b64(`{"typ":"secevent+jwt","alg":"ES256","kid":"1"}`) + "." + b64(`{"iss":"i","aud":["a"],"jti":"1","iat":1.5e9,"toe":1,"events":{"a":{"subject":{"device":{"format":"opaque","id":"1"}}}}}`) + ".AAAA")
	f.Fuzz(func(t *testing.T, text string) {
		u, err := Parse(text)
		if err != nil {
			if refusal, ok := errors.AsType[*Error](err); !ok || refusal.Code == "" || u != nil {
				t.Fatalf("refused with %v, and %v", err, u)
			}
			return
		}
		if u.token.ID == "" || u.token.Issuer == "" || len(u.token.Events) == 0 || u.token.IssuedAt.Unix() <= 0 || len(text) > MaxBytes {
			t.Fatalf("taken: %+v", u.token)
		}
		if _, err := u.Verify(Keys{}, expected()); err == nil {
			t.Fatal("verified without a key")
		}
		_, _ = u.Verify(keys, expected())
	})
}

// FuzzSubject: what is read is written so that it reads the same.
func FuzzSubject(f *testing.F) {
	for _, s := range []string{`{"format":"opaque","id":"1"}`, `{"format":"complex","user":{"format":"email","email":"a@b"},"device":{"format":"aliases"}}`,
		`{"format":"aliases","identifiers":[{"format":"iss_sub","iss":"i","sub":"s"}]}`, `{"subject_type":"iss-sub","iss":"i","sub":"s"}`, `{"device":{"format":"x"}}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseSubject(b)
		if err != nil {
			return
		}
		out, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseSubject(out)
		if err != nil || !reflect.DeepEqual(s, again) {
			t.Fatalf("%s is written as %s, which reads as %+v, %v", b, out, again, err)
		}
	})
}
