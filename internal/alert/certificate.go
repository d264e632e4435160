package alert

import (
	"fmt"
	"strings"
	"time"
)

// CertificateHealth is the server certificate for those who do not know the gateway's root.
type CertificateHealth struct {
	Issuer    string
	NotBefore time.Time
	NotAfter  time.Time // zero: there is none
	Uncovered []string  // enrollment names that it does not bear
	Broken    string    // what is kept and cannot be read, and what to do; empty: all can
	ACME      string    // the directory it is got from; empty: it was brought
	Failures  int       // of ACME, in a row
	Problem   string    // of the last attempt
}

// Subjects of the alerts, each with an end of its own.
const (
	certificateEnds    = "ends"
	certificateRenewal = "renewal"
	certificateNames   = "names"
	certificateBroken  = "unreadable"
)

func serverCertificate(v View) []Condition {
	c := v.Certificate
	var out []Condition
	if ends, ok := certificateEnding(c, v.Now); ok {
		out = append(out, ends)
	}
	if c.ACME != "" && c.Failures >= failures && c.Problem != "" {
		out = append(out, Condition{ServerCertificate, certificateRenewal, Warning,
			fmt.Sprintf("the server certificate was asked for %d times at %s, and did not come: %s", c.Failures, c.ACME, c.Problem),
			"see lazaretctl certificate show; the server has to reach the enrollment names at port 443, and the gateway the server"})
	}
	if len(c.Uncovered) > 0 {
		out = append(out, Condition{ServerCertificate, certificateNames, Warning,
			"the server certificate does not bear " + strings.Join(c.Uncovered, ", ") + ", for which the gateway's own is shown",
			"ask for one with all names of enroll.names: lazaretctl certificate csr"})
	}
	if c.Broken != "" {
		out = append(out, Condition{ServerCertificate, certificateBroken, Critical,
			"what the gateway keeps for its server certificate cannot be read: " + c.Broken,
			"see lazaretctl certificate show; set anew what cannot be read, or forget it with certificate unset and certificate acme unset"})
	}
	return out
}

// certificateEnding tells of an end that comes near: 30 and 7 days before where a person has to
// see to it, and where the gateway does, when that should long have been.
func certificateEnding(c *CertificateHealth, now time.Time) (Condition, bool) {
	if c.NotAfter.IsZero() {
		return Condition{}, false
	}
	left, soon, late := c.NotAfter.Sub(now), expiresSoon, expiresNow
	remedy := "bring the one that comes after it: lazaretctl certificate csr, and lazaretctl certificate set"
	if c.ACME != "" {
		life := c.NotAfter.Sub(c.NotBefore)
		soon, late = min(soon, life/4), min(late, life/8) // it is renewed when a third is left
		remedy = "see why it is not renewed: lazaretctl certificate show"
	}
	out := Condition{Kind: ServerCertificate, Subject: certificateEnds, Severity: Warning, Remedy: remedy,
		Text: fmt.Sprintf("the server certificate of %s ends on %s", c.Issuer, c.NotAfter.UTC().Format(time.DateOnly))}
	switch {
	case left <= 0:
		out.Severity = Critical
		out.Text = fmt.Sprintf("the server certificate of %s ended on %s: the gateway's own is shown, which browsers do not know", c.Issuer, c.NotAfter.UTC().Format(time.DateOnly))
	case left <= late:
		out.Severity = Critical
	case left > soon:
		return Condition{}, false
	}
	return out, true
}
