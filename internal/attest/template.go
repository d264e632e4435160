package attest

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"

	"github.com/google/go-tpm/tpm2"
)

// akTemplate is the AK: a P-256 key that signs only what the TPM made (restricted), never
// left it (fixedTPM, sensitiveDataOrigin), and is derived from the endorsement hierarchy's
// seed and the device's id. So it needs no file on the device, each enrollment has its own,
// and its quotes tell the true counts of resets (TPM 2.0 Library, part 2, section 10.12.12,
// obfuscates them in other hierarchies).
func akTemplate() tpm2.TPMTPublic {
	return tpm2.TPMTPublic{
		Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{
			FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, NoDA: true, Restricted: true, SignEncrypt: true,
		},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			CurveID: tpm2.TPMECCNistP256,
			Scheme: tpm2.TPMTECCScheme{
				Scheme:  tpm2.TPMAlgECDSA,
				Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256}),
			},
		}),
	}
}

// akFor asks the TPM for the AK of one device.
func akFor(device string) tpm2.TPMTPublic {
	t := akTemplate()
	x := sha256.Sum256([]byte("lazaret attestation key 1\x00" + device))
	t.Unique = point(x[:], make([]byte, 32))
	return t
}

func point(x, y []byte) tpm2.TPMUPublicID {
	return tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{X: tpm2.TPM2BECCParameter{Buffer: x}, Y: tpm2.TPM2BECCParameter{Buffer: y}})
}

// ak is an attestation key that was checked.
type ak struct {
	key  *ecdsa.PublicKey
	name []byte // TPM 2.0 Library, part 1, section 16
}

// qualified is the name of the key with that of its parent, the endorsement hierarchy.
func (a ak) qualified() []byte {
	sum := sha256.Sum256(append(binary.BigEndian.AppendUint32(nil, uint32(tpm2.TPMRHEndorsement)), a.name...))
	return append(binary.BigEndian.AppendUint16(nil, uint16(tpm2.TPMAlgSHA256)), sum[:]...)
}

// parseAK takes a public area that is akTemplate with a point of the curve, byte for byte.
func parseAK(public []byte) (ak, error) {
	x, y, err := pointOf(public, akTemplate())
	if err != nil {
		return ak{}, fmt.Errorf("the attestation key: %w", err)
	}
	key, err := pointKey(x, y)
	if err != nil {
		return ak{}, fmt.Errorf("the attestation key: %w", err)
	}
	sum := sha256.Sum256(public)
	return ak{key: key, name: append(binary.BigEndian.AppendUint16(nil, uint16(tpm2.TPMAlgSHA256)), sum[:]...)}, nil
}

var errTemplate = errors.New("it is not of the one kind that is taken")

// pointOf reads the point at the end of a public area that is else as template says:
// whatever differs anywhere is refused.
func pointOf(public []byte, template tpm2.TPMTPublic) (x, y []byte, err error) {
	const tail = 2 + 32 + 2 + 32
	if len(public) < tail || len(public) > maxPublic {
		return nil, nil, errTemplate
	}
	end := public[len(public)-tail:]
	x, y = end[2:34], end[36:]
	template.Unique = point(x, y)
	if !bytes.Equal(tpm2.Marshal(template), public) {
		return nil, nil, errTemplate
	}
	return x, y, nil
}

func pointKey(x, y []byte) (*ecdsa.PublicKey, error) {
	return ecdsa.ParseUncompressedPublicKey(elliptic.P256(), append(append([]byte{4}, x...), y...))
}

// parseEK takes a public area that is one of the two templates of the TCG EK Credential
// Profile that all TPMs have: RSA 2048 (L-1) and P-256 (L-2).
func parseEK(public []byte) (tpm2.TPMTPublic, crypto.PublicKey, error) {
	if x, y, err := pointOf(public, tpm2.ECCEKTemplate); err == nil {
		t := tpm2.ECCEKTemplate
		t.Unique = point(x, y)
		key, err := pointKey(x, y)
		if err != nil {
			return tpm2.TPMTPublic{}, nil, fmt.Errorf("the endorsement key: %w", err)
		}
		return t, key, nil
	}
	const size = 2048 / 8
	if len(public) < size || len(public) > maxPublic {
		return tpm2.TPMTPublic{}, nil, fmt.Errorf("the endorsement key: %w", errTemplate)
	}
	n := public[len(public)-size:]
	t := tpm2.RSAEKTemplate
	t.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: n})
	if !bytes.Equal(tpm2.Marshal(t), public) || n[0]&0x80 == 0 || n[size-1]&1 == 0 {
		return tpm2.TPMTPublic{}, nil, fmt.Errorf("the endorsement key: %w", errTemplate)
	}
	return t, &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: 65537}, nil
}
