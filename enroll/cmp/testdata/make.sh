#!/bin/sh
# Makes the messages in openssl/ anew, with the cmp command of OpenSSL (3.0 or newer)
# against the mock server built into it. Run it here: sh make.sh
# The secret is "SECRET-of-80-bits"; the private keys are thrown away.
set -eu
out=$(pwd)/openssl
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
exec 3>log

key() { openssl genpkey -algorithm "$@" 2>&3; }
key EC -pkeyopt ec_paramgen_curve:P-256 >ca.key
key EC -pkeyopt ec_paramgen_curve:P-256 >ec.key
key EC -pkeyopt ec_paramgen_curve:P-384 >p384.key
key RSA -pkeyopt rsa_keygen_bits:2048 >rsa.key
key ED25519 >ed.key
key EC -pkeyopt ec_paramgen_curve:P-256 >new.key

openssl req -x509 -key ca.key -subj "/CN=Test CA" -days 36500 -out ca.pem 2>&3
for k in ec p384 rsa ed new; do
	openssl req -new -key $k.key -subj "/CN=device $k" -out $k.csr
	printf 'subjectAltName=URI:wireguard:q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6s\nsubjectKeyIdentifier=hash\nkeyUsage=digitalSignature\n' >ext
	openssl x509 -req -in $k.csr -CA ca.pem -CAkey ca.key -days 36500 -extfile ext -out $k.pem 2>&3
	openssl x509 -in $k.pem -outform der -out "$out/$k.crt"
done
openssl x509 -in ca.pem -outform der -out "$out/ca.crt"
openssl req -new -key ec.key -subj "/CN=device ec" -outform der -out ec.csr.der \
	-addext subjectAltName=URI:wireguard:q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6s

# run name cert option...: the mock server answers with that certificate;
# requests go to name.1.der, name.3.der, answers to name.2.der ...
run() {
	name=$1
	cert=$2
	shift 2
	openssl cmp -config "" -use_mock_srv -batch -verbosity 4 \
		-srv_cert ca.pem -srv_key ca.key -srv_ref 7K2M9QXA -srv_secret "pass:SECRET-of-80-bits" \
		-rsp_cert $cert.pem -rsp_capubs ca.pem -rsp_extracerts ca.pem -srv_trusted ca.pem \
		-reqout "$out/$name.1.der,$out/$name.3.der,$out/$name.5.der" \
		-rspout "$out/$name.2.der,$out/$name.4.der,$out/$name.6.der" \
		"$@" >&3 2>&3 || echo "$name: exit status $? (meant for error, unproterr, failure, kur-*)"
}
mac="-ref 7K2M9QXA -secret pass:SECRET-of-80-bits"
san="-sans wireguard:q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6s"
run ir ec $mac -cmd ir -newkey ec.key -subject /CN=dev1 $san -certout x.pem
run ir512 p384 $mac -digest sha512 -mac hmacWithSHA512 -cmd ir -newkey p384.key -subject /CN=dev1 -certout x.pem
run cr rsa $mac -mac hmacWithSHA256 -implicit_confirm -cmd cr -newkey rsa.key -subject /CN=dev1 -certout x.pem
run ed ed $mac -mac hmacWithSHA256 -cmd cr -newkey ed.key -subject /CN=dev1 -certout x.pem
run p10cr ec $mac -mac hmacWithSHA256 -cmd p10cr -csr ec.csr.der -certout x.pem
run genm ec $mac -mac hmacWithSHA256 -cmd genm -infotype caCerts -geninfo 1.2.3.4:int:56789
run poll ec $mac -mac hmacWithSHA256 -poll_count 1 -check_after 1 -cmd ir -newkey ec.key -subject /CN=dev1 -certout x.pem
run error ec $mac -mac hmacWithSHA256 -send_error -cmd ir -newkey ec.key -subject /CN=dev1 -certout x.pem
run unproterr ec $mac -mac hmacWithSHA256 -send_error -send_unprot_err -unprotected_errors -cmd ir -newkey ec.key -subject /CN=dev1 -certout x.pem
run failure ec $mac -mac hmacWithSHA256 -pkistatus 2 -failurebits 0x4001002 -statusstring "not today" -cmd ir -newkey ec.key -subject /CN=dev1 -certout x.pem
for k in ec p384 rsa; do # OpenSSL 3.0 does not sign CMP with Ed25519
	run kur-$k $k -cert $k.pem -key $k.key -trusted ca.pem -cmd kur -newkey new.key -certout x.pem
done
run rr ec -cert ec.pem -key ec.key -trusted ca.pem -cmd rr -oldcert ec.pem -revreason 4
