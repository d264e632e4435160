package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lazaret/internal/console/api"
)

func TestTrusted(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const one = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
	got, err := trusted(false, []string{file("two", "# a comment\n"+one+"\n"+one), file("one", one)})
	if err != nil || len(got.Makers) != 3 || got.Makers[2] != one || got.FirstUse {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := trusted(false, []string{file("none", "nothing\n")}); err == nil {
		t.Error("a file without a certificate was taken")
	}
	for want, trust := range map[string]api.AttestationTrust{"is off": {}, "nobody vouches": {FirstUse: true}, "of 3 makers": {FirstUse: true, Makers: got.Makers}} {
		if said := sayTrust(trust); !strings.Contains(said, want) {
			t.Errorf("%+v: %s", trust, said)
		}
	}
}

func TestShowAttestation(t *testing.T) {
	var out strings.Builder
	showAttestation(&out, api.Attestation{Since: time.Now(), EK: "e", AK: "a", Baseline: map[string]string{"0": "00", "4": "44"}, Seen: map[string]string{"4": "55"}, SeenAt: time.Now(), Resets: 3})
	for _, want := range []string{"resets    3\n", "PCR 0     00\nPCR 4     44\n  now     55, since "} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}
