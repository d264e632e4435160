package main

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"math"
	"math/big"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"software.sslmate.com/src/go-pkcs12"

	"lazaret/internal/console/api"
)

// bringFlags say where a certificate is.
type bringFlags struct {
	chain, key, p12, password string
	names                     []string
}

// read makes PEM of what the flags name; the gateway reads nothing else.
func (f bringFlags) read(cmd *cobra.Command) (api.CertificateSet, error) {
	q := api.CertificateSet{For: f.names}
	switch {
	case (f.chain == "") == (f.p12 == ""):
		return q, errors.New("give --chain, or --pkcs12")
	case f.p12 != "" && f.key != "":
		return q, errors.New("the key is in the PKCS#12 file: leave --key-file out")
	case f.p12 == "" && f.password != "":
		return q, errors.New("--password-file goes with --pkcs12")
	case f.chain == "-" && f.key == "-" || f.p12 == "-" && f.password == "-":
		return q, errors.New("one file alone can come from standard input")
	}
	if f.p12 != "" {
		return f.readPKCS12(cmd, q)
	}
	chain, err := readFileOrStdin(cmd, f.chain)
	if err != nil {
		return q, err
	}
	q.Chain = string(chain)
	if f.key != "" {
		key, err := readFileOrStdin(cmd, f.key)
		if err != nil {
			return q, err
		}
		q.Key = string(key)
	}
	return q, nil
}

func (f bringFlags) readPKCS12(cmd *cobra.Command, q api.CertificateSet) (api.CertificateSet, error) {
	file, err := readFileOrStdin(cmd, f.p12)
	if err != nil {
		return q, err
	}
	if n := iterations(file, 0); n > mostIterations {
		return q, fmt.Errorf("reading %s: its key derivation asks for %d rounds, more than %d", f.p12, n, mostIterations)
	}
	password := []byte(nil)
	if f.password != "" {
		if password, err = readFileOrStdin(cmd, f.password); err != nil {
			return q, err
		}
	}
	key, leaf, others, err := pkcs12.DecodeChain(file, strings.TrimRight(string(password), "\r\n"))
	if errors.Is(err, pkcs12.ErrIncorrectPassword) {
		return q, fmt.Errorf("reading %s: %w; give it with --password-file", f.p12, err)
	}
	if err != nil {
		return q, fmt.Errorf("reading %s: %w; turn it into PEM: openssl pkcs12 -in %[1]s -noenc -out gw.pem, and give that with --chain", f.p12, err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return q, fmt.Errorf("reading %s: %w", f.p12, err)
	}
	q.Key = string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	var text bytes.Buffer
	for _, c := range inOrder(leaf, others) {
		if err := pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}); err != nil {
			return q, err
		}
	}
	q.Chain = text.String()
	return q, nil
}

// mostIterations is how many rounds of a PKCS#12 file's key derivations are gone through: some
// seconds; OpenSSL writes 2048, and careful programs a million.
const mostIterations = 10_000_000

// iterations is the largest count of rounds that can be seen in a PKCS#12 file: the number that
// follows a salt (RFC 7292, section 4 and appendix C; RFC 8018, appendix A).
func iterations(der []byte, depth int) int64 {
	var most int64
	salt := false
	for depth < 32 && len(der) > 0 {
		var v asn1.RawValue
		rest, err := asn1.Unmarshal(der, &v)
		if err != nil {
			break
		}
		if v.Class == asn1.ClassUniversal && v.Tag == asn1.TagInteger && salt {
			n := new(big.Int).SetBytes(v.Bytes)
			if !n.IsInt64() {
				return math.MaxInt64
			}
			most = max(most, n.Int64())
		}
		salt = v.Class == asn1.ClassUniversal && v.Tag == asn1.TagOctetString
		if v.IsCompound || salt {
			most = max(most, iterations(v.Bytes, depth+1))
		}
		der = rest
	}
	return most
}

// inOrder follows the issuers from leaf on: PKCS#12 keeps certificates in no order.
func inOrder(leaf *x509.Certificate, others []*x509.Certificate) []*x509.Certificate {
	out := []*x509.Certificate{leaf}
	for {
		last := out[len(out)-1]
		i := slices.IndexFunc(others, func(c *x509.Certificate) bool {
			return bytes.Equal(c.RawSubject, last.RawIssuer) && !slices.Contains(out, c)
		})
		if i < 0 {
			return out
		}
		out = append(out, others[i])
	}
}
