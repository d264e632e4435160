package set

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// Signers of another JOSE implementation stand for the transmitter.
var methods = []jwt.SigningMethod{jwt.SigningMethodRS256, jwt.SigningMethodPS256, jwt.SigningMethodES256, jwt.SigningMethodES384, jwt.SigningMethodEdDSA}

var privates = sync.OnceValue(func() map[string]crypto.Signer {
	r, err1 := rsa.GenerateKey(rand.Reader, 2048)
	p256, err2 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	p384, err3 := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	_, ed, err4 := ed25519.GenerateKey(rand.Reader)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		panic(err)
	}
	return map[string]crypto.Signer{"RS256": r, "PS256": r, "ES256": p256, "ES384": p384, "EdDSA": ed}
})

var then = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

const (
	issuer   = "https://idp.example.com/3456789/"
	receiver = "https://gw.example.net/ssf"
)

func expected() Expect {
	return Expect{Issuer: issuer, Audience: []string{"https://gw.example.net/other", receiver}, Now: then, MaxAge: time.Hour}
}

// claims are those of CAEP 1.0 section 3.5, with values of our own.
func claims() jwt.MapClaims {
	return jwt.MapClaims{"iss": issuer, "aud": receiver, "jti": "24c63fb56e5a2d77a6b512616ca9fa24", "iat": then.Unix(),
		"sub_id": map[string]any{"format": "complex",
			"device": map[string]any{"format": "iss_sub", "iss": issuer, "sub": "e9297990-14d2-42ec-a4a9-4036db86509a"},
			"tenant": map[string]any{"format": "opaque", "id": "123456789"}},
		"events": map[string]any{DeviceComplianceChange: map[string]any{
			"current_status": "not-compliant", "previous_status": "compliant", "initiating_entity": "policy",
			"reason_admin": map[string]any{"en": "Location Policy Violation: C076E8A3"}, "event_timestamp": then.Unix() - 60}}}
}

// keyset is the transmitter's key set: the public half of each key under the name of its
// method, and of the RSA key under both.
func keyset(t testing.TB) Keys {
	t.Helper()
	var all Keys
	for _, m := range methods {
		k, err := NewKey(privates()[m.Alg()])
		if err != nil {
			t.Fatal(err)
		}
		k.ID = m.Alg()
		jwks, err := JWKS(k)
		if err != nil {
			t.Fatal(err)
		}
		if m.Alg() == "PS256" {
			jwks = []byte(strings.Replace(string(jwks), `"RS256"`, `"PS256"`, 1))
			jwks = []byte(strings.Replace(string(jwks), `"kid":"RS256"`, `"kid":"PS256"`, 1))
		}
		one, err := ParseKeys(jwks)
		if err != nil {
			t.Fatal(err)
		}
		all.all = append(all.all, one.all...)
	}
	return all
}

func sign(t testing.TB, m jwt.SigningMethod, key any, header map[string]any, c jwt.MapClaims) string {
	t.Helper()
	token := jwt.NewWithClaims(m, c)
	token.Header["typ"], token.Header["kid"] = "secevent+jwt", m.Alg()
	for name, v := range header {
		if token.Header[name] = v; v == nil {
			delete(token.Header, name)
		}
	}
	text, err := token.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func verify(text string, keys Keys) (Token, error) {
	u, err := Parse(text)
	if err != nil {
		return Token{}, err
	}
	return u.Verify(keys, expected())
}

func TestTokensOfAnotherImplementation(t *testing.T) {
	keys := keyset(t)
	for _, m := range methods {
		got, err := verify(sign(t, m, privates()[m.Alg()], nil, claims()), keys)
		if err != nil {
			t.Errorf("%s: %v", m.Alg(), err)
			continue
		}
		status, _ := got.Events[0].Text("current_status")
		at, err := got.Events[0].Timestamp()
		if got.Issuer != issuer || got.ID != "24c63fb56e5a2d77a6b512616ca9fa24" || !got.IssuedAt.Equal(then) || status != "not-compliant" ||
			err != nil || !at.Equal(then.Add(-time.Minute)) || got.Subject.Members["device"].Fields["sub"] != "e9297990-14d2-42ec-a4a9-4036db86509a" {
			t.Errorf("%s: read %+v, %v", m.Alg(), got, err)
		}
	}
}

// TestOursAreReadByAnotherImplementation: typ, kid and signature are as others want them.
func TestOursAreReadByAnotherImplementation(t *testing.T) {
	for _, alg := range []string{"RS256", "ES256", "ES384", "EdDSA"} {
		key, err := NewKey(privates()[alg])
		if err != nil {
			t.Fatal(err)
		}
		der, err := key.PKCS8()
		if err != nil {
			t.Fatal(err)
		}
		if key, err = ParseKey(der); err != nil {
			t.Fatal(err)
		}
		subject := Opaque("d1")
		text, err := key.Sign(Token{ID: "1", Issuer: issuer, Audience: []string{receiver}, IssuedAt: then, Occurred: then, Transaction: "t",
			Subject: &subject, Events: []Event{{Type: SessionRevoked, Claims: Claims(map[string]any{"event_timestamp": then.Unix()})}}})
		if err != nil {
			t.Fatal(err)
		}
		got := jwt.MapClaims{}
		token, err := jwt.NewParser(jwt.WithValidMethods([]string{alg}), jwt.WithTimeFunc(func() time.Time { return then })).ParseWithClaims(text, got,
			func(*jwt.Token) (any, error) { return privates()[alg].Public(), nil })
		if err != nil || token.Header["typ"] != "secevent+jwt" || token.Header["kid"] != key.ID || got["aud"] != receiver || got["txn"] != "t" {
			t.Errorf("%s: %v, header %v, claims %v", alg, err, token.Header, got)
		}
	}
}

func TestRefusals(t *testing.T) {
	keys := keyset(t)
	es, rs := jwt.SigningMethodES256, jwt.SigningMethodRS256
	with := func(change func(jwt.MapClaims)) jwt.MapClaims { c := claims(); change(c); return c }
	claim := func(name string, v any) jwt.MapClaims {
		return with(func(c jwt.MapClaims) {
			if c[name] = v; v == nil {
				delete(c, name)
			}
		})
	}
	good := func(c jwt.MapClaims) string { return sign(t, es, privates()["ES256"], nil, c) }
	header := func(h map[string]any) string { return sign(t, es, privates()["ES256"], h, claims()) }
	rsaPEM := []byte("-----BEGIN PUBLIC KEY-----") // any bytes that are known to all
	text := good(claims())
	parts := strings.Split(text, ".")
	other, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	for name, c := range map[string]struct {
		text string
		code Code
	}{
		"alg none":                         {sign(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, map[string]any{"kid": "ES256"}, claims()), AuthenticationFailed},
		"signature cut off":                {parts[0] + "." + parts[1] + ".", AuthenticationFailed},
		"alg nOnE":                         {b64(`{"typ":"secevent+jwt","alg":"nOnE","kid":"ES256"}`) + "." + parts[1] + "." + parts[2], AuthenticationFailed},
		"public key as HMAC secret":        {sign(t, jwt.SigningMethodHS256, rsaPEM, map[string]any{"kid": "RS256"}, claims()), InvalidKey},
		"RS384":                            {sign(t, jwt.SigningMethodRS384, privates()["RS256"], map[string]any{"kid": "RS256"}, claims()), InvalidKey},
		"kid of another key":               {header(map[string]any{"kid": "ES384"}), InvalidKey},
		"unknown kid":                      {header(map[string]any{"kid": "x"}), InvalidKey},
		"no kid":                           {header(map[string]any{"kid": nil}), InvalidKey},
		"key in the header":                {sign(t, es, other, map[string]any{"jwk": public(t, other)}, claims()), AuthenticationFailed},
		"key in the header, unknown kid":   {sign(t, es, other, map[string]any{"kid": "x", "jwk": public(t, other)}, claims()), InvalidKey},
		"somebody else's key":              {sign(t, es, other, nil, claims()), AuthenticationFailed},
		"PS256 under a key for RS256":      {sign(t, jwt.SigningMethodPS256, privates()["RS256"], map[string]any{"kid": "RS256"}, claims()), InvalidKey},
		"signature of another token":       {parts[0] + "." + parts[1] + "." + strings.Split(good(claim("jti", "2")), ".")[2], AuthenticationFailed},
		"no typ":                           {header(map[string]any{"typ": nil}), InvalidRequest},
		"typ JWT":                          {header(map[string]any{"typ": "JWT"}), InvalidRequest},
		"typ at+jwt":                       {header(map[string]any{"typ": "at+jwt"}), InvalidRequest},
		"crit":                             {header(map[string]any{"crit": []string{"b64"}, "b64": false}), InvalidRequest},
		"two parts":                        {parts[0] + "." + parts[1], InvalidRequest},
		"JSON serialization":               {`{"payload":"` + parts[1] + `","protected":"` + parts[0] + `","signature":"` + parts[2] + `"}`, InvalidRequest},
		"padding":                          {text + "=", InvalidRequest},
		"line break":                       {text[:20] + "\n" + text[20:], InvalidRequest},
		"white space around":               {" " + text, InvalidRequest},
		"too long":                         {good(claim("x", strings.Repeat("a", MaxBytes))), InvalidRequest},
		"wrong issuer":                     {good(claim("iss", issuer+"x")), InvalidIssuer},
		"issuer without its slash":         {good(claim("iss", strings.TrimSuffix(issuer, "/"))), InvalidIssuer},
		"no issuer":                        {good(claim("iss", nil)), InvalidRequest},
		"wrong audience":                   {good(claim("aud", receiver+"x")), InvalidAudience},
		"wrong audiences":                  {good(claim("aud", []string{"a", "b"})), InvalidAudience},
		"no audience":                      {good(claim("aud", nil)), InvalidAudience},
		"empty audience":                   {good(claim("aud", []string{})), InvalidAudience},
		"audience is a number":             {good(claim("aud", 1)), InvalidRequest},
		"no iat":                           {good(claim("iat", nil)), InvalidRequest},
		"iat is text":                      {good(claim("iat", "1772366400")), InvalidRequest},
		"iat in milliseconds":              {good(claim("iat", then.UnixMilli())), InvalidRequest},
		"iat 1e400":                        {parts[0] + "." + b64(`{"iss":"`+issuer+`","aud":"`+receiver+`","jti":"1","iat":1e400,"events":{"a":{}}}`) + "." + parts[2], InvalidRequest},
		"iat ahead":                        {good(claim("iat", then.Add(MaxAhead+time.Second).Unix())), InvalidRequest},
		"iat long ago":                     {good(claim("iat", then.Add(-time.Hour-time.Second).Unix())), InvalidRequest},
		"toe ahead":                        {good(claim("toe", then.Add(MaxAhead+time.Second).Unix())), InvalidRequest},
		"exp":                              {good(claim("exp", then.Add(time.Hour).Unix())), InvalidRequest},
		"sub":                              {good(claim("sub", "jane")), InvalidRequest},
		"no jti":                           {good(claim("jti", nil)), InvalidRequest},
		"empty jti":                        {good(claim("jti", "")), InvalidRequest},
		"long jti":                         {good(claim("jti", strings.Repeat("a", 1025))), InvalidRequest},
		"no events":                        {good(claim("events", nil)), InvalidRequest},
		"empty events":                     {good(claim("events", map[string]any{})), InvalidRequest},
		"events is a list":                 {good(claim("events", []any{map[string]any{}})), InvalidRequest},
		"event is null":                    {good(claim("events", map[string]any{SessionRevoked: nil})), InvalidRequest},
		"event is text":                    {good(claim("events", map[string]any{SessionRevoked: "x"})), InvalidRequest},
		"subject without format":           {good(claim("sub_id", map[string]any{"id": "1"})), InvalidRequest},
		"subject is text":                  {good(claim("sub_id", "x")), InvalidRequest},
		"deeply nested":                    {parts[0] + "." + b64(`{"events":`+strings.Repeat("[", 40)+strings.Repeat("]", 40)+`}`) + "." + parts[2], InvalidRequest},
		"name twice":                       {parts[0] + "." + b64(`{"iss":"`+issuer+`","iss":"`+issuer+`","aud":"`+receiver+`","jti":"1","iat":1772366400,"events":{"a":{}}}`) + "." + parts[2], InvalidRequest},
		"name twice, deep":                 {parts[0] + "." + b64(`{"iss":"`+issuer+`","aud":"`+receiver+`","jti":"1","iat":1772366400,"events":{"a":{"b":[{"c":1,"c":2}]}}}`) + "." + parts[2], InvalidRequest},
		"name twice, written differently":  {parts[0] + "." + b64(`{"iss":"`+issuer+`","\u0069ss":"x","aud":"`+receiver+`","jti":"1","iat":1772366400,"events":{"a":{}}}`) + "." + parts[2], InvalidRequest},
		"other case, which is another one": {parts[0] + "." + b64(`{"ISS":"`+issuer+`","aud":"`+receiver+`","jti":"1","iat":1772366400,"events":{"a":{}}}`) + "." + parts[2], InvalidRequest},
		"something behind":                 {parts[0] + "." + b64(`{"iss":"`+issuer+`","aud":"`+receiver+`","jti":"1","iat":1772366400,"events":{"a":{}}} {}`) + "." + parts[2], InvalidRequest},
		"no UTF-8":                         {parts[0] + "." + b64("{\"iss\":\"\xff\"}") + "." + parts[2], InvalidRequest},
		"payload null":                     {parts[0] + "." + b64("null") + "." + parts[2], InvalidRequest},
		"header name twice":                {b64(`{"typ":"secevent+jwt","alg":"none","alg":"ES256","kid":"ES256"}`) + "." + parts[1] + "." + parts[2], InvalidRequest},
		"empty":                            {"", InvalidRequest},
		"ID token":                         {sign(t, rs, privates()["RS256"], map[string]any{"typ": "JWT"}, jwt.MapClaims{"iss": issuer, "aud": receiver, "sub": "x", "exp": then.Add(time.Hour).Unix(), "iat": then.Unix()}), InvalidRequest},
	} {
		_, err := verify(c.text, keys)
		refusal, ok := errors.AsType[*Error](err)
		if !ok || refusal.Code != c.code {
			t.Errorf("%s: %v, want %s", name, err, c.code)
		}
	}
	if _, err := verify(text, keys); err != nil {
		t.Errorf("the token that the others are made of is refused itself: %v", err)
	}
}

// public is a key as an attacker would put it into a header.
func public(t *testing.T, private crypto.Signer) (jwk json.RawMessage) {
	k, err := NewKey(private)
	if err != nil {
		t.Fatal(err)
	}
	jwks, err := JWKS(k)
	if err != nil {
		t.Fatal(err)
	}
	var form struct{ Keys []json.RawMessage }
	if err := json.Unmarshal(jwks, &form); err != nil {
		t.Fatal(err)
	}
	return form.Keys[0]
}

func b64(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

// TestEveryFlippedBit: a token is the one that was signed, or is refused; base64 with bits
// that count for nothing would be a second form of it.
func TestEveryFlippedBit(t *testing.T) {
	keys := keyset(t)
	text := sign(t, jwt.SigningMethodEdDSA, privates()["EdDSA"], nil, claims())
	for i := range text {
		for bit := range 8 {
			b := []byte(text)
			b[i] ^= 1 << bit
			if _, err := verify(string(b), keys); err == nil {
				t.Fatalf("byte %d, bit %d: %q is taken as well", i, bit, b)
			}
		}
	}
}

func TestBounds(t *testing.T) {
	keys := keyset(t)
	for name, at := range map[string]time.Time{"as far ahead as may be": then.Add(MaxAhead), "as old as may be": then.Add(-time.Hour)} {
		c := claims()
		c["iat"] = at.Unix()
		if _, err := verify(sign(t, jwt.SigningMethodES256, privates()["ES256"], nil, c), keys); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	c := claims()
	c["aud"] = []string{"https://elsewhere.example.org", receiver}
	if _, err := verify(sign(t, jwt.SigningMethodES256, privates()["ES256"], map[string]any{"typ": "application/secevent+jwt"}, c), keys); err != nil {
		t.Errorf("one of two audiences: %v", err)
	}
}

func TestKeySets(t *testing.T) {
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Skip("this Go makes no small key to refuse:", err)
	}
	n := base64.RawURLEncoding.EncodeToString(small.N.Bytes())
	for name, jwks := range map[string]string{
		"no JSON": "x", "no keys": `{"keys":[]}`, "null": "null",
		"symmetric":          `{"keys":[{"kty":"oct","kid":"1","k":"c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"}]}`,
		"small RSA":          `{"keys":[{"kty":"RSA","kid":"1","e":"AQAB","n":"` + n + `"}]}`,
		"for encryption":     `{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"1","use":"enc","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`,
		"alg of other kinds": `{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"1","alg":"HS256","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`,
		"no kid":             `{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`,
		"private":            `{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"1","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"}]}`,
	} {
		if k, err := ParseKeys([]byte(jwks)); err == nil {
			t.Errorf("%s: taken, with %d keys", name, k.Len())
		}
	}
	// RFC 8037 appendix A.2, beside a key of a kind that is not known.
	k, err := ParseKeys([]byte(`{"keys":[{"kty":"new","kid":"0"},{"kty":"OKP","crv":"Ed25519","kid":"1","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`))
	if err != nil || k.Len() != 1 || !k.Has("1") || k.Has("0") {
		t.Errorf("a known key beside an unknown one: %v, %v", k, err)
	}
}

// TestExamples reads what the specifications give as examples: the facts in them, not their
// layout.
func TestExamples(t *testing.T) {
	for name, payload := range map[string]string{
		"RFC 8417 section 2.1.2": `{"iss":"https://idp.example.com/","jti":"756E69717565206964656E746966696572","iat":1508184845,"aud":"636C69656E745F6964",
			"events":{"https://schemas.openid.net/secevent/risc/event-type/account-disabled":{"subject":{"subject_type":"iss-sub","iss":"https://idp.example.com/","sub":"7375626A656374"},"reason":"hijacking"}}}`,
		"RISC 1.0 section 2.1": `{"iss":"https://idp.example.com/","jti":"756E69717565206964656E746966696572","iat":1508184845,"aud":"636C69656E745F6964",
			"sub_id":{"format":"iss_sub","iss":"https://idp.example.com/","sub":"7375626A656374"},
			"events":{"https://schemas.openid.net/secevent/risc/event-type/account-credential-change-required":{}}}`,
		"CAEP 1.0 section 3.1": `{"iss":"https://idp.example.com/123456789/","jti":"24c63fb56e5a2d77a6b512616ca9fa24","iat":1615305159,"aud":"https://sp.example.com/caep","txn":"8675309",
			"sub_id":{"format":"opaque","id":"dMTlD|1600802906337.16|16008.16"},
			"events":{"https://schemas.openid.net/secevent/caep/event-type/session-revoked":{"event_timestamp":1615304991}}}`,
		"CAEP 1.0 section 3.2": `{"iss":"https://idp.example.com/987654321/","jti":"9afce1e4e642b165fcaacdd0e7aa4903","iat":1615305159,"aud":"https://sp.example2.net/caep",
			"sub_id":{"format":"jwt_id","iss":"https://idp.example.com/987654321/","jti":"f61t6e20zdo3px56gepu8rzlsp4c1dpc0fx7"},
			"events":{"https://schemas.openid.net/secevent/caep/event-type/token-claims-change":{"event_timestamp":1615304991,"claims":{"role":"ro-admin"}}}}`,
		"SSF 1.0 section 8.1.4": `{"jti":"123456","iss":"https://transmitter.example.com","aud":"receiver.example.com","iat":1493856000,"sub_id":{"format":"opaque","id":"f67e39a0a4d34d56b3aa1bc4cff0069f"},
			"events":{"https://schemas.openid.net/secevent/ssf/event-type/verification":{"state":"VGhpcyBpcyBhbiBleGFtcGxlIHN0YXRlIHZhbHVlLgo="}}}`,
	} {
		var got Token
		if err := got.payload([]byte(payload)); err != nil {
			t.Errorf("%s: %v", name, err)
		} else if len(got.Events) != 1 || got.Subject == nil && got.Events[0].Subject == nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestTimestamps(t *testing.T) {
	for in, want := range map[string]string{
		"1615304991": "2021-03-09T15:49:51Z", "1615304991643": "2021-03-09T15:49:51.643Z", "1615304991.5": "2021-03-09T15:49:51.5Z", "1.615304991e9": "2021-03-09T15:49:51Z",
		"0": "", "-1": "", `"1615304991"`: "", "null": "", "1e30": "", "9999999999999999999": "",
	} {
		at, err := Event{Claims: map[string]json.RawMessage{"event_timestamp": json.RawMessage(in)}}.Timestamp()
		if got := at.Format(time.RFC3339Nano); (err == nil) != (want != "") || err == nil && got != want {
			t.Errorf("%s is %s, %v; want %q", in, got, err, want)
		}
	}
}
