package cmp

import (
	"bytes"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte/asn1"
)

func seq(parts ...string) string { return tlv(0x30, strings.Join(parts, "")) }

func tlv(tag byte, content string) string {
	var b builder
	b.AddASN1(asn1.Tag(tag), func(b *builder) { b.AddBytes([]byte(content)) })
	return string(b.BytesOrPanic())
}

const (
	pvno2  = "\x02\x01\x02"
	nullDN = "\xa4\x02\x30\x00"
	pki    = "\xb3\x02\x05\x00" // pkiConf
)

// TestParseMalformed: each message has one thing wrong that a lax reader would let pass.
func TestParseMalformed(t *testing.T) {
	header := seq(pvno2, nullDN, nullDN)
	if _, err := Parse([]byte(seq(header, pki))); err != nil {
		t.Fatalf("the message the others are made from: %v", err)
	}
	with := func(fields ...string) string {
		return seq(seq(append([]string{pvno2, nullDN, nullDN}, fields...)...), pki)
	}
	info := seq("\x06\x01\x2a")
	deep, wide := "\x05\x00", strings.Repeat("\x05\x00", 5000)
	for range 40 {
		deep = seq(deep)
	}
	for name, der := range map[string]string{
		"empty":                        "",
		"no body":                      seq(header),
		"no header":                    seq(pki),
		"not a sequence":               tlv(0x31, header+pki),
		"indefinite length":            "\x30\x80" + header + pki + "\x00\x00",
		"length not minimal":           "\x30\x81" + seq(header, pki)[1:],
		"length of five bytes":         "\x30\x85\x00\x00\x00\x00\x01\x00",
		"length beyond the end":        "\x30\x84\xff\xff\xff\xff",
		"tag above 30":                 seq(header, "\xbf\x21\x02\x05\x00"),
		"pvno 1":                       seq(seq("\x02\x01\x01", nullDN, nullDN), pki),
		"pvno not minimal":             seq(seq("\x02\x02\x00\x02", nullDN, nullDN), pki),
		"pvno huge":                    seq(seq("\x02\x09\x01\x00\x00\x00\x00\x00\x00\x00\x02", nullDN, nullDN), pki),
		"no recipient":                 seq(seq(pvno2, nullDN), pki),
		"name without a name":          seq(seq(pvno2, "\xa4\x00", nullDN), pki),
		"name of no known kind":        seq(seq(pvno2, "\xa9\x00", nullDN), pki),
		"octets in pieces":             with(tlv(0xa4, tlv(0x24, tlv(4, "abc")))),
		"transaction ID of 129":        with(tlv(0xa4, tlv(4, strings.Repeat("x", 129)))),
		"two values in a field":        with(tlv(0xa4, tlv(4, "a")+tlv(4, "b"))),
		"fields in the wrong order":    with(tlv(0xa5, tlv(4, "a")), tlv(0xa4, tlv(4, "a"))),
		"field twice":                  with(tlv(0xa4, tlv(4, "a")), tlv(0xa4, tlv(4, "a"))),
		"unknown field":                with(tlv(0xa9, tlv(4, "a"))),
		"time with an offset":          with(tlv(0xa0, tlv(0x18, "20260304120000+0100"))),
		"time out of range":            with(tlv(0xa0, tlv(0x18, "20261304120000Z"))),
		"text not UTF-8":               with(tlv(0xa7, seq(tlv(0x0c, "\xff")))),
		"free text empty":              with(tlv(0xa7, seq())),
		"general info empty":           with(tlv(0xa8, seq())),
		"type twice in general info":   with(tlv(0xa8, seq(info, info))),
		"type with a padded arc":       with(tlv(0xa8, seq(seq("\x06\x03\x2a\x80\x01")))),
		"type cut short":               with(tlv(0xa8, seq(seq("\x06\x02\x2a\x81")))),
		"65 of a list":                 with(tlv(0xa7, seq(strings.Repeat(tlv(0x0c, "x"), 65)))),
		"41 levels":                    with(tlv(0xa8, seq(seq("\x06\x01\x2a", deep)))),
		"5000 elements":                with(tlv(0xa8, seq(seq("\x06\x01\x2a", seq(wide))))),
		"boolean of 1":                 with(tlv(0xa8, seq(seq("\x06\x01\x2a", "\x01\x01\x01")))),
		"unknown body":                 seq(header, tlv(0xa0|26+1, "\x05\x00")),
		"primitive body":               seq(header, "\x93\x02\x05\x00"),
		"null with content":            seq(header, "\xb3\x03\x05\x01\x00"),
		"body with two values":         seq(header, tlv(0xb3, "\x05\x00\x05\x00")),
		"no request in ir":             seq(header, tlv(0xa0, seq())),
		"protection with unused bits":  seq(header, pki, tlv(0xa0, "\x03\x02\x01\x80")),
		"protection with stray bits":   seq(header, pki, tlv(0xa0, "\x03\x02\x07\xff")),
		"extraCerts empty":             seq(header, pki, tlv(0xa1, seq())),
		"extraCerts before protection": seq(header, pki, tlv(0xa1, seq(seq())), tlv(0xa0, "\x03\x02\x00\x80")),
		"something after":              seq(header, pki) + "\x05\x00",
		"status unknown":               seq(header, tlv(0xb7, seq(seq("\x02\x01\x07")))),
		"failure bits padded":          seq(header, tlv(0xb7, seq(seq("\x02\x01\x02", "\x03\x02\x00\x40")))),
		"poll in a thousand years":     seq(header, tlv(0xba, seq(seq("\x02\x01\x00", "\x02\x05\x07\x00\x00\x00\x00")))),
		"larger than 64 KiB":           with(tlv(0xa8, seq(seq("\x06\x01\x2a", tlv(4, strings.Repeat("x", MaxSize)))))),
	} {
		if _, err := Parse([]byte(der)); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: got %v, want %v", name, err, ErrFormat)
		}
	}
}

// TestTemplateOneFaultEach builds certificate requests of which one is right.
func TestTemplateFaults(t *testing.T) {
	request := func(parts ...string) error {
		_, err := Parse([]byte(seq(seq(pvno2, nullDN, nullDN), tlv(0xa0, seq(seq(seq(append([]string{"\x02\x01\x00"}, parts...)...)))))))
		return err
	}
	ext := seq("\x06\x01\x2a", tlv(4, "x"))
	if err := request(seq("\x80\x01\x02", tlv(0xa9, ext))); err != nil {
		t.Fatal(err)
	}
	for name, template := range map[string]string{
		"issuerUID":                seq(tlv(0x87, "\x00x")),
		"extension twice":          seq(tlv(0xa9, ext+ext)),
		"extension false critical": seq(tlv(0xa9, seq("\x06\x01\x2a", "\x01\x01\x00", tlv(4, "x")))),
		"extensions empty":         seq(tlv(0xa9, "")),
		"subject is no name":       seq(tlv(0xa5, "\x05\x00")),
		"fields out of order":      seq(tlv(0xa5, seq()), tlv(0xa3, seq())),
	} {
		if err := request(template); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
	old := seq(string(tlv(6, string(idOldCertID))), seq(nullDN, "\x02\x01\x05"))
	if err := request(seq(), seq(old)); err != nil {
		t.Errorf("oldCertID once: %v", err)
	}
	if err := request(seq(), seq(old, old)); !errors.Is(err, ErrFormat) {
		t.Errorf("oldCertID twice: %v", err)
	}
}

// TestBodiesRoundTrip covers the kinds and fields that no golden message has.
func TestBodiesRoundTrip(t *testing.T) {
	id := CertID{Issuer: CommonName("CA"), Serial: []byte{5}}
	for _, b := range []Body{
		{Kind: GenM}, {Kind: GenP}, {Kind: CertConf}, {Kind: PKIConf},
		{Kind: RP, Revoked: []StatusInfo{{Status: Rejection, Text: []string{"no"}, Fail: BadCertID}}, RevokedIDs: []CertID{id}},
		{Kind: RR, Revocations: []Revocation{{Template: Template{Issuer: CommonName("CA")[2:], Serial: []byte{5}}, Reason: -1}}},
		{Kind: PollRep, Polls: []Poll{{RequestID: -1, After: 90 * time.Second, Reason: []string{"waits for approval"}}}},
		{Kind: CertConf, Statuses: []CertStatus{{Hash: []byte("h"), RequestID: math.MaxInt64, HashAlg: signature{id: idSHA256}.identifier()}}},
		{Kind: Error, Error: ErrorContent{Status: StatusInfo{Status: Rejection, Fail: SystemUnavail | SystemFailure}, Code: -5, Details: []string{"a", "ü"}}},
	} {
		m := &Message{Header: Header{Version: 3, RecipKID: []byte{1}, FreeText: []string{"hello"}}, Body: b}
		der, err := m.Marshal()
		if err != nil {
			t.Errorf("%+v: %v", b, err)
			continue
		}
		got := mustParse(t, der)
		again, err := (&Message{Header: got.Header, Body: got.Body}).Marshal()
		if err != nil || !bytes.Equal(again, der) || got.Body.Kind != b.Kind {
			t.Errorf("%+v came back as %+v (%v)", b, got.Body, err)
		}
	}
	p := mustParse(t, []byte(seq(seq(pvno2, nullDN, nullDN), tlv(0xba, seq(seq("\x02\x01\xff", "\x02\x01\x5a")))))).Body.Polls
	if len(p) != 1 || p[0].RequestID != -1 || p[0].After != 90*time.Second {
		t.Errorf("poll reads %+v", p)
	}
}

// TestMarshalRefuses: a field that is to hold DER and does not is found before it is sent.
func TestMarshalRefuses(t *testing.T) {
	for name, m := range map[string]*Message{
		"raw value":   {Body: Body{Kind: GenM, Infos: []Info{{Type: IDCACerts, Value: []byte("junk")}}}},
		"sender":      {Header: Header{Sender: []byte{0xa4, 9}}, Body: Body{Kind: PKIConf}},
		"certificate": {Body: Body{Kind: PKIConf}, ExtraCerts: [][]byte{{0x30, 0x80}}},
		"kind":        {Body: Body{Kind: 31}},
		"too large":   {Header: Header{FreeText: []string{strings.Repeat("x", MaxSize)}}, Body: Body{Kind: PKIConf}},
	} {
		if der, err := m.Marshal(); err == nil {
			t.Errorf("%s: marshalled to %d bytes", name, len(der))
		}
	}
}
