package servercert

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
)

// What bounds the files that an administrator sends.
const (
	MaxText         = 64 << 10 // bytes of a file
	MaxCertificates = 10
	maxKey          = 4 << 10 // bytes of a key's DER; RSA of 4096 bits has 2.4 KiB
	maxRSA          = 8192    // bits of a certificate's key: verifying takes the square of it
)

// Bundle is a certificate with its issuers, and its key where that is known.
type Bundle struct {
	Chain []*x509.Certificate // the leaf first
	Key   crypto.Signer       // nil: not given
}

// Parse reads PEM (RFC 7468): certificates, in the order of the file, and one private key at
// most, from either text. Text outside of blocks is left out. The error is *Faults.
func Parse(chain, key []byte) (Bundle, error) {
	var b Bundle
	var faults Faults
	keys := 0
	for i, text := range [][]byte{chain, key} {
		if len(text) > MaxText {
			faults.add("a file has more than %d KiB", "send the certificate with its issuers and nothing else", MaxText>>10)
			continue
		}
		if i == 0 && !bytes.Contains(text, []byte("-----BEGIN ")) {
			faults.add("the file of certificates is not PEM", "turn it into PEM: openssl x509 -inform DER -in file -out chain.pem, or openssl pkcs7 -print_certs, or give it with --pkcs12")
		}
		for {
			var block *pem.Block
			if block, text = pem.Decode(text); block == nil {
				break
			}
			if block.Type == "CERTIFICATE" || block.Type == "X509 CERTIFICATE" || block.Type == "TRUSTED CERTIFICATE" {
				b.take(&faults, block)
				continue
			}
			if b.takeKey(&faults, block) {
				keys++
			}
		}
	}
	if len(b.Chain) == 0 && len(faults) == 0 {
		faults.add("no certificate is in the file", "give the certificate first, then those of its issuers")
	}
	if keys > 1 {
		faults.add("there are %d private keys", "give the certificate's key alone", keys)
	}
	if len(key) > 0 && keys == 0 && len(faults) == 0 {
		faults.add("no private key is in the file of the key", "give it as PEM: PKCS#8, SEC 1 or PKCS#1, not encrypted")
	}
	if err := faults.err(); err != nil {
		return Bundle{}, err
	}
	return b, nil
}

func (b *Bundle) take(faults *Faults, block *pem.Block) {
	if len(b.Chain) == MaxCertificates {
		if len(*faults) == 0 || (*faults)[len(*faults)-1].What != errMany {
			faults.add(errMany, "give the certificate with its issuers and nothing else")
		}
		return
	}
	c, err := parseCertificate(block.Bytes)
	if err != nil {
		faults.add("certificate %d of the file cannot be read: %v", "ask for it again, and copy it whole", len(b.Chain)+1, err)
		return
	}
	b.Chain = append(b.Chain, c)
}

// parseCertificate refuses a key with which a signature would take long to verify, before
// anything is verified with it.
func parseCertificate(der []byte) (*x509.Certificate, error) {
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	if k, ok := c.PublicKey.(*rsa.PublicKey); ok && k.N.BitLen() > maxRSA {
		return nil, fmt.Errorf("its RSA key has %d bits, more than %d", k.N.BitLen(), maxRSA)
	}
	return c, nil
}

// parsePool reads the authorities of a private server, PEM.
func parsePool(text string) (*x509.CertPool, error) {
	pool, found := x509.NewCertPool(), false
	for rest := []byte(text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := parseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		pool.AddCert(c)
		found = true
	}
	if !found {
		return nil, errors.New("there is none")
	}
	return pool, nil
}

var errMany = fmt.Sprintf("there are more than %d certificates", MaxCertificates)

// takeKey reports whether the block is a private key, however it is.
func (b *Bundle) takeKey(faults *Faults, block *pem.Block) bool {
	switch {
	case block.Type == "EC PARAMETERS" || block.Type == "DH PARAMETERS":
		return false
	case block.Type == "ENCRYPTED PRIVATE KEY" || strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED"):
		faults.add("the private key is encrypted", "send it decrypted, over this connection alone: openssl pkey -in key.pem | lazaretctl certificate set --chain chain.pem --key-file -")
		return true
	case !strings.HasSuffix(block.Type, "PRIVATE KEY"):
		faults.add("a block %.40q is neither a certificate nor a key", "remove it", block.Type)
		return false
	}
	key, err := parseKey(block)
	if err != nil { // the cause could quote the key
		faults.add("the private key cannot be read", "give it as PEM: PKCS#8, SEC 1 or PKCS#1; P-256, P-384 or RSA of 2048 to 4096 bits")
	}
	b.Key = key
	return true
}

func parseKey(block *pem.Block) (crypto.Signer, error) {
	if len(block.Bytes) > maxKey {
		return nil, errors.New("too large")
	}
	var parsed any
	var err error
	switch block.Type {
	case "RSA PRIVATE KEY":
		parsed, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		parsed, err = x509.ParseECPrivateKey(block.Bytes)
	default:
		parsed, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	}
	if err != nil {
		return nil, err
	}
	key, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, errors.New("it does not sign")
	}
	return key, nil
}
