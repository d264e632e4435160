package api

import "time"

// Certificate is what the gateway shows to those who do not know its own root, and how it
// comes by it. Keys are never in it.
type Certificate struct {
	Names     []string             `json:"names"` // DNS names that a certificate has to cover: enroll.names
	Shown     CertificateInfo      `json:"shown"` // what a browser is shown now
	Kept      *CertificateInfo     `json:"kept,omitempty"`
	Uncovered []string             `json:"uncovered,omitempty"` // names that what is kept does not bear
	Requests  []CertificateWaiting `json:"requests,omitempty"`
	ACME      *CertificateACME     `json:"acme,omitempty"`
	Problem   string               `json:"problem,omitempty"`
	Warnings  []string             `json:"warnings,omitempty"`
}

// CertificateInfo is one certificate.
type CertificateInfo struct {
	Source    string    `json:"source"` // "own", "file", "request", "acme"
	Names     []string  `json:"names"`
	Issuer    string    `json:"issuer"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
	DaysLeft  int       `json:"days_left"` // whole ones; below 0 when it is over
	SHA256    string    `json:"sha256"`    // of the certificate, hexadecimal
	For       []string  `json:"for,omitempty"`
	Set       time.Time `json:"set,omitzero"`
	Renew     time.Time `json:"renew,omitzero"` // from then on
}

// CertificateWaiting is a key of the gateway's whose certificate has not come.
type CertificateWaiting struct {
	Names []string  `json:"names"`
	At    time.Time `json:"at"`
}

// CertificateACME is how certificates are asked for by ACME, and how that goes.
type CertificateACME struct {
	Directory string    `json:"directory"`
	Contacts  []string  `json:"contacts,omitempty"`
	Names     []string  `json:"names,omitempty"`
	Agreed    bool      `json:"agreed"`
	KeyID     string    `json:"eab_kid,omitempty"`
	Roots     bool      `json:"roots,omitempty"` // the server's authorities are given
	Key       string    `json:"key,omitempty"`
	Account   string    `json:"account,omitempty"`
	Failures  int       `json:"failures,omitempty"` // in a row
	Problem   string    `json:"problem,omitempty"`
	Tried     time.Time `json:"tried,omitzero"`
	Next      time.Time `json:"next,omitzero"` // no attempt before
}

// CertificateRequest asks for a certificate request.
type CertificateRequest struct {
	Names []string `json:"names,omitempty"` // none: enroll.names
	Key   string   `json:"key,omitempty"`   // "p256" (default), "p384", "rsa3072"
}

// CertificateRequested is a request for the authority.
type CertificateRequested struct {
	Names   []string `json:"names"`
	Request string   `json:"request"` // PKCS#10, PEM
}

// CertificateSet brings a certificate.
type CertificateSet struct {
	Chain string   `json:"chain"`         // PEM: the certificate, its issuers, and the root where that is no public one
	Key   string   `json:"key,omitempty"` // PEM; empty: the gateway made it. Never shown again
	For   []string `json:"for,omitempty"` // names to show it for; none: all that it bears
}

// CertificateACMESet has the gateway get its certificate by ACME.
type CertificateACMESet struct {
	Directory string   `json:"directory"`
	Contacts  []string `json:"contacts,omitempty"`
	Names     []string `json:"names,omitempty"` // none: enroll.names
	Agreed    bool     `json:"agreed"`          // to the server's terms
	KeyID     string   `json:"eab_kid,omitempty"`
	MAC       string   `json:"eab_key,omitempty"` // base64url; never shown again
	Roots     string   `json:"roots,omitempty"`   // PEM: the server's authorities; none: the public ones
	Key       string   `json:"key,omitempty"`
	For       []string `json:"for,omitempty"`
}
