package set

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

// TestSubjects has the examples of RFC 9493 section 3.2 and SSF 1.0 section 3.
func TestSubjects(t *testing.T) {
	simple := func(format string, pairs ...string) Subject {
		s := Subject{Format: format, Fields: map[string]string{}}
		for i := 0; i < len(pairs); i += 2 {
			s.Fields[pairs[i]] = pairs[i+1]
		}
		return s
	}
	for in, want := range map[string]Subject{
		`{"format":"account","uri":"acct:example.user@service.example.com"}`:         simple("account", "uri", "acct:example.user@service.example.com"),
		`{"format":"email","email":"user@example.com"}`:                              simple("email", "email", "user@example.com"),
		`{"format":"iss_sub","iss":"https://issuer.example.com/","sub":"145234573"}`: simple("iss_sub", "iss", "https://issuer.example.com/", "sub", "145234573"),
		`{"format":"opaque","id":"11112222333344445555"}`:                            simple("opaque", "id", "11112222333344445555"),
		`{"format":"phone_number","phone_number":"+12065550100"}`:                    simple("phone_number", "phone_number", "+12065550100"),
		`{"format":"did","url":"did:example:123456"}`:                                simple("did", "url", "did:example:123456"),
		`{"format":"uri","uri":"urn:uuid:4e851e98-83c4-4743-a5da-150ecb53042f"}`:     simple("uri", "uri", "urn:uuid:4e851e98-83c4-4743-a5da-150ecb53042f"),
		`{"subject_type":"iss-sub","iss":"i","sub":"s"}`:                             simple("iss_sub", "iss", "i", "sub", "s"),
		`{"format":"catalog_item","catalog_id":"c0384/winter/2354122","n":1}`:        simple("catalog_item", "catalog_id", "c0384/winter/2354122"),
		`{"format":"aliases","identifiers":[{"format":"email","email":"a@example.com"},{"format":"opaque","id":"1"}]}`: {
			Format: "aliases", Identifiers: []Subject{simple("email", "email", "a@example.com"), simple("opaque", "id", "1")}},
		`{"format":"complex","user":{"format":"email","email":"bar@example.com"},"tenant":{"format":"iss_sub","iss":"https://example.com/idp1","sub":"1234"}}`: {
			Format: "complex", Members: map[string]Subject{"user": simple("email", "email", "bar@example.com"), "tenant": simple("iss_sub", "iss", "https://example.com/idp1", "sub", "1234")}},
		`{"device":{"format":"opaque","id":"1"}}`: {Format: "complex", Members: map[string]Subject{"device": simple("opaque", "id", "1")}},
	} {
		got, err := ParseSubject([]byte(in))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v", in, got, err)
			continue
		}
		out, err := json.Marshal(got)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := ParseSubject(out); err != nil || !reflect.DeepEqual(again, want) {
			t.Errorf("%s is written as %s, which reads as %+v, %v", in, out, again, err)
		}
	}
	for _, in := range []string{
		``, `null`, `[]`, `{}`, `{"format":""}`, `{"format":1}`, `{"id":"1"}`, `{"format":"opaque"}`, `{"format":"opaque","id":1}`, `{"format":"iss_sub","sub":"1"}`,
		`{"format":"complex"}`, `{"format":"complex","user":"x"}`, `{"format":"complex","user":{"format":"complex","user":{"format":"opaque","id":"1"}}}`,
		`{"format":"aliases"}`, `{"format":"aliases","identifiers":[]}`, `{"format":"aliases","identifiers":[{"format":"aliases","identifiers":[{"format":"opaque","id":"1"}]}]}`,
		`{"format":"opaque","id":"1","id":"2"}`, `{"format":"opaque","id":"` + strings.Repeat("a", 1025) + `"}`,
	} {
		if s, err := ParseSubject([]byte(in)); err == nil {
			t.Errorf("%s is taken, as %+v", in, s)
		}
	}
}
