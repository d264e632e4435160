package store

import (
	"crypto/sha256"
	"testing"

	"lazaret/enroll"
	"lazaret/internal/store/enrolltest"
	"lazaret/quarantine"
)

// TestConfirmingAnOTPConfirmsItsDevice, in one transaction that the gate sees, and only
// the device that still has the certificate.
func TestConfirmingAnOTPConfirmsItsDevice(t *testing.T) {
	s := fresh(t)
	seedPools(t, s)
	for _, replaced := range []bool{false, true} {
		n := 1
		if replaced {
			n = 2
		}
		o := enrolltest.Create(t, s, enrolltest.OTP(n))
		i := enrolltest.Issuance(o, enrolltest.Record(n))
		i.OTP.Answer.Certificate = []byte{byte(n)}
		i.Record.Certificate.Sum = sha256.Sum256(i.OTP.Answer.Certificate)
		if replaced {
			i.Record.Certificate.Sum = sha256.Sum256([]byte("a later one"))
		}
		r, err := s.Issue(t.Context(), i)
		if err != nil {
			t.Fatal(err)
		}
		o, err = s.OTP(t.Context(), o.Reference)
		if err != nil {
			t.Fatal(err)
		}
		before, err := s.Now(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		o.State = enroll.Confirmed
		if err := s.UpdateOTP(t.Context(), quarantine.Actor{Kind: "otp", Name: o.Reference}, "otp.confirm", o); err != nil {
			t.Fatal(err)
		}
		got, err := s.Device(t.Context(), r.ID)
		if err != nil || got.Confirmed == replaced {
			t.Errorf("certificate replaced %v: device confirmed %v, %v", replaced, got.Confirmed, err)
		}
		after, err := s.Now(t.Context())
		if err != nil || (after > before) == replaced {
			t.Errorf("certificate replaced %v: the gate's revision went from %d to %d, %v", replaced, before, after, err)
		}
	}
}
