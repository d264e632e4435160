package console

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"net/http"
	"slices"
	"strings"

	"lazaret/quarantine"
)

// Permission names one thing an identity may do. A route without one is open to nobody.
type Permission string

const (
	ReadStatus        Permission = "status.read"
	ReadOTPs          Permission = "otp.read"
	WriteOTPs         Permission = "otp.write"
	ReadDevices       Permission = "device.read"
	WriteDevices      Permission = "device.write"
	WriteReports      Permission = "report.write"
	ReadOrganization  Permission = "organization.read"
	WriteOrganization Permission = "organization.write"
	GrantRelease      Permission = "source.release" // to give a source the right to release, or to say who it is
	ReadTokens        Permission = "token.read"
	WriteTokens       Permission = "token.write"
	ReadAudit         Permission = "audit.read"

	anyone Permission = "anyone" // the API description and the root certificate
)

// scopes lists what each token scope may do. An unknown scope may do nothing.
var scopes = map[string][]Permission{
	"admin": {ReadStatus, ReadOTPs, WriteOTPs, ReadDevices, WriteDevices, WriteReports, ReadOrganization,
		WriteOrganization, GrantRelease, ReadTokens, WriteTokens, ReadAudit},
	"read":   {ReadStatus, ReadOTPs, ReadDevices, ReadOrganization, ReadAudit},
	"report": {WriteReports},
}

// identity is who asks. The zero identity may do nothing.
type identity struct {
	actor  quarantine.Actor
	may    []Permission
	source string // the only source it may report as; empty: any (administrators)
}

func (i identity) can(p Permission) bool { return slices.Contains(i.may, p) }

var (
	errUnauthenticated  = errors.New("who are you? send an administrator's client certificate or an API token")
	errDenied           = errors.New("this credential may not do that")
	errCrossSite        = errors.New("refused: another web site asked for this")
	errForbiddenNetwork = errors.New("the administration API is closed to this address")
)

// authenticate finds out who asks: a client certificate of the administrators' CA, or a
// bearer token. Anything else, and any error, is nobody.
func (s *Server) authenticate(r *http.Request) (identity, error) {
	if token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		t, err := s.cfg.Organization.TokenBySum(r.Context(), sha256.Sum256([]byte(token)))
		if err != nil {
			if errors.Is(err, ErrNotFound) {
				return identity{}, errUnauthenticated
			}
			return identity{}, err
		}
		if t.Scope == "report" && t.Source == "" {
			return identity{}, errDenied // it would speak for every source
		}
		return identity{
			actor:  quarantine.Actor{Kind: "token", Name: t.Name, Address: r.RemoteAddr},
			may:    scopes[t.Scope],
			source: t.Source,
		}, nil
	}
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return identity{}, errUnauthenticated
	}
	leaf := r.TLS.PeerCertificates[0]
	if err := s.cfg.Administrator(leaf, s.cfg.Now()); err != nil {
		return identity{}, errUnauthenticated
	}
	return identity{
		actor: quarantine.Actor{Kind: "administrator", Name: leaf.Subject.CommonName, Address: r.RemoteAddr},
		may:   scopes["admin"],
	}, nil
}

// NewToken draws a token: 160 random bits behind a prefix that scanners for leaked
// secrets can know it by.
func NewToken() string {
	var b [20]byte
	rand.Read(b[:])
	return "lzt_" + strings.ToLower(base32.StdEncoding.EncodeToString(b[:]))
}
