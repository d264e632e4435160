package cmp

import (
	"encoding/asn1"
	"testing"
)

// TestStandardOIDs holds the bytes to what encoding/asn1 makes of the numbers in the standards.
func TestStandardOIDs(t *testing.T) {
	for id, arcs := range map[OID]asn1.ObjectIdentifier{
		IDCACerts:          {1, 3, 6, 1, 5, 5, 7, 4, 17}, // RFC 9810, appendix F
		IDImplicitConfirm:  {1, 3, 6, 1, 5, 5, 7, 4, 13},
		IDConfirmWait:      {1, 3, 6, 1, 5, 5, 7, 4, 14},
		idCommonName:       {2, 5, 4, 3}, // RFC 5280, appendix A
		idAltName:          {2, 5, 29, 17},
		idReason:           {2, 5, 29, 21},
		idOldCertID:        {1, 3, 6, 1, 5, 5, 7, 5, 1, 5},   // RFC 4211, section 6.5
		idPasswordBasedMAC: {1, 2, 840, 113533, 7, 66, 13},   // RFC 9810, section 5.1.3.1
		idHMACSHA1IPsec:    {1, 3, 6, 1, 5, 5, 8, 1, 2},      // ditto
		idSHA256:           {2, 16, 840, 1, 101, 3, 4, 2, 1}, // RFC 5754, section 2
		idSHA384:           {2, 16, 840, 1, 101, 3, 4, 2, 2},
		idSHA512:           {2, 16, 840, 1, 101, 3, 4, 2, 3},
		idHMACSHA1:         {1, 2, 840, 113549, 2, 7}, // RFC 8018, appendix B.1
		idHMACSHA256:       {1, 2, 840, 113549, 2, 9},
		idHMACSHA384:       {1, 2, 840, 113549, 2, 10},
		idHMACSHA512:       {1, 2, 840, 113549, 2, 11},
		idECDSASHA256:      {1, 2, 840, 10045, 4, 3, 2}, // RFC 5758, section 3.2
		idECDSASHA384:      {1, 2, 840, 10045, 4, 3, 3},
		idECDSASHA512:      {1, 2, 840, 10045, 4, 3, 4},
		idRSASHA256:        {1, 2, 840, 113549, 1, 1, 11}, // RFC 5754, section 3.2
		idRSASHA384:        {1, 2, 840, 113549, 1, 1, 12},
		idRSASHA512:        {1, 2, 840, 113549, 1, 1, 13},
		idEd25519:          {1, 3, 101, 112}, // RFC 8410, section 3
	} {
		der, err := asn1.Marshal(arcs)
		if err != nil {
			t.Fatal(err)
		}
		if string(der[2:]) != string(id) { // behind tag and length
			t.Errorf("%s: %x, want %x", arcs, string(id), der[2:])
		}
	}
}
