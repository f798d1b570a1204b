package inject

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The names of headers and parameters that this file knows.
const (
	amzDate      = "X-Amz-Date"
	amzToken     = "X-Amz-Security-Token"
	amzHash      = "X-Amz-Content-Sha256"
	amzSignature = "X-Amz-Signature"
	amzSession   = "X-Amz-S3session-Token" // goes with the keys of a session, which ours are not
)

// The values of X-Amz-Content-Sha256 that are no hash.
const (
	unsignedPayload  = "UNSIGNED-PAYLOAD"
	unsignedTrailer  = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
	signedChunks     = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
	signedAndTrailer = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
)

const (
	sigV4Algorithm  = "AWS4-HMAC-SHA256"
	sigV4Terminator = "aws4_request"

	// maxSigned bounds a body that is read as a whole to be hashed, and a chunk. APIs take up to 6 MB (Lambda) in one
	// request; what is larger mostly goes to S3, in other ways.
	maxSigned = 8 << 20

	// maxExpires is the longest life of a presigned URL in seconds.
	maxExpires = 7 * 24 * 60 * 60

	// maxSignedNames bounds the list of headers that a client has signed.
	maxSignedNames = 4 << 10
)

// presignParams are the parameters of a presigned URL, in lower case: some servers do not mind the case.
var presignParams = map[string]bool{
	"x-amz-algorithm": true, "x-amz-credential": true, "x-amz-date": true, "x-amz-expires": true, "x-amz-signedheaders": true,
	"x-amz-signature": true, "x-amz-security-token": true, "x-amz-content-sha256": true, "x-amz-s3session-token": true,
}

// A sigV4Request is a request that is to be signed: what it says itself, and what the client's signature says of it.
type sigV4Request struct {
	presigned       bool
	foreign         bool // has no signature of this kind
	region, service string
	s3              bool     // the service takes paths as they are, and bodies without a hash
	problem         error    // with the client's scope; counts only if it is needed
	names           []string // of the headers that the client has signed, in lower case
	expires         string   // of a presigned URL
	payload         string   // X-Amz-Content-Sha256 as the client sent it, then as it is signed
	announce        bool     // send X-Amz-Content-Sha256
	hashInQuery     bool     // and that in the query of a presigned URL
	chunks          bool     // the body has signatures of its own
	query           queryItems
}

func unsignable(text, hint string) error { return &misfit{"cannot_sign", text, hint} }

const nameScope = "set region and service in the rule, or let the program sign with placeholder keys"

// readSigV4 takes req apart. What it says is a client's word and can be anything.
func readSigV4(req *http.Request) (*sigV4Request, error) {
	c := &sigV4Request{}
	var err error
	if c.query, err = readQuery(req.URL.RawQuery); err != nil {
		return nil, err
	}
	own := c.query.presign
	_, c.presigned = own["x-amz-signature"]
	if own["x-amz-algorithm"] == ecdsaAlgorithm || hasScheme(req, ecdsaAlgorithm) {
		return nil, unsignable("the request is signed with "+ecdsaAlgorithm+" (SigV4A), which is not supported",
			"have the program sign for one region, with "+sigV4Algorithm)
	}
	var credential, names string
	if c.presigned {
		credential, names, c.expires = own["x-amz-credential"], own["x-amz-signedheaders"], own["x-amz-expires"]
	} else {
		credential, names = readAuthorization(req.Header["Authorization"])
	}
	c.foreign = credential == "" && !c.presigned
	c.readScope(credential)
	if len(names) > maxSignedNames {
		return nil, unsignable("the client's signature names too many headers", "send fewer headers")
	}
	c.names = strings.Split(strings.ToLower(names), ";")
	if c.presigned {
		seconds, err := strconv.ParseUint(c.expires, 10, 31)
		if err != nil || seconds == 0 {
			return nil, unsignable("X-Amz-Expires of the presigned URL is not a number of seconds", "presign it anew, for 1 to 604800 seconds")
		}
		c.expires = strconv.FormatUint(min(seconds, maxExpires), 10)
	}
	claims := req.Header[amzHash]
	if len(claims) > 1 {
		return nil, unsignable(amzHash+" is there more than once", "send it once")
	}
	c.payload = strings.Join(claims, "")
	if claim, ok := own["x-amz-content-sha256"]; ok && c.presigned {
		c.payload, c.hashInQuery = claim, true
	}
	return c, c.checkPayload()
}

const ecdsaAlgorithm = "AWS4-ECDSA-P256-SHA256"

// readAuthorization is Credential and SignedHeaders of the Authorization header, empty if it is of another kind.
func readAuthorization(lines []string) (credential, names string) {
	if len(lines) != 1 {
		return "", ""
	}
	list, ok := strings.CutPrefix(strings.TrimSpace(lines[0]), sigV4Algorithm+" ")
	if !ok {
		return "", ""
	}
	for item := range strings.SplitSeq(list, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(item), "=")
		switch {
		case name == "Credential" && credential == "":
			credential = value
		case name == "Credential":
			return "", "" // twice
		case name == "SignedHeaders":
			names = value
		}
	}
	return credential, names
}

// readScope reads id/date/region/service/aws4_request. An id may have slashes.
func (c *sigV4Request) readScope(credential string) {
	if credential == "" {
		c.problem = unsignable("the request does not say for which region and service it is", nameScope)
		return
	}
	parts := strings.Split(credential, "/")
	c.problem = unsignable("the scope in the client's signature is malformed", nameScope)
	if len(parts) < 5 || len(parts) > 16 {
		return
	}
	scope := parts[len(parts)-4:]
	_, err := time.Parse("20060102", scope[0])
	if err != nil || !isScopePart(scope[1]) || !isScopePart(scope[2]) || scope[3] != sigV4Terminator {
		return
	}
	c.region, c.service, c.problem = scope[1], scope[2], nil
}

// settle decides on region and service: the rule's, where it names them.
func (c *sigV4Request) settle(region, service string) error {
	if c.problem != nil && (region == "" || service == "") {
		return c.problem
	}
	c.region, c.service = cmp.Or(region, c.region), cmp.Or(service, c.service)
	switch c.service {
	case "s3", "s3express", "s3-outposts", "s3-object-lambda":
		c.s3 = true
	}
	return nil
}

func (c *sigV4Request) checkPayload() error {
	switch c.payload {
	case "", unsignedPayload:
		return nil
	case unsignedTrailer, signedChunks, signedAndTrailer:
		if !c.presigned {
			return nil
		}
	}
	sum, err := hex.DecodeString(c.payload)
	switch {
	case err == nil && len(sum) == sha256.Size && c.payload == strings.ToLower(c.payload):
		return nil
	case strings.HasPrefix(c.payload, "STREAMING-AWS4-ECDSA-"):
		return unsignable("the body's chunks are signed with "+ecdsaAlgorithm+" (SigV4A), which is not supported",
			"have the program sign for one region, with "+sigV4Algorithm)
	}
	return unsignable(amzHash+" is neither a SHA-256 in hex nor a kind of body that can be signed here",
		"use "+unsignedPayload+", "+signedChunks+" or the body's hash")
}

// readBody decides how the body is signed.
func (c *sigV4Request) readBody(req *http.Request) error {
	none := req.Body == nil || req.Body == http.NoBody
	_, held := req.Body.(*heldBody)
	c.announce = c.payload != "" || c.foreign || c.s3
	switch {
	case c.payload == unsignedPayload || c.payload == unsignedTrailer:
		return nil
	case c.payload == signedChunks || c.payload == signedAndTrailer:
		c.chunks = true
		if none {
			return unsignable("the body is not in chunks, as "+amzHash+" says", "have the program sign the body in another way")
		}
		return nil
	case c.payload != "" && !none && !held:
		return nil // the server looks whether it is right. A body that is held may have been changed
	case c.s3 && c.presigned && c.payload == "":
		c.payload, c.announce = unsignedPayload, false
		return nil
	case c.s3 && !held && !none && req.URL.Scheme == "https" && (req.ContentLength < 0 || req.ContentLength > maxSigned):
		c.payload = unsignedPayload
		return nil
	}
	body, err := bodyUpTo(req, maxSigned, "send at most 8 MiB at once, or the body's SHA-256 (hex) in "+amzHash+", which is signed as it stands")
	if err != nil {
		return err
	}
	sum := sha256.Sum256(body)
	c.payload = hex.EncodeToString(sum[:])
	return nil
}

// A queryItem is a parameter of a query in canonical form.
type queryItem struct{ name, value string }

// queryItems is a query taken apart.
type queryItems struct {
	raw     string            // without the parameters of presigning, and otherwise as the client wrote it
	items   []queryItem       // the same in canonical form, not yet sorted
	presign map[string]string // by lower-case name, decoded
}

func readQuery(raw string) (q queryItems, err error) {
	if q.raw = raw; raw == "" {
		return q, nil
	}
	const ours = 8 // parameters of a presigned URL
	q.items = make([]queryItem, 0, strings.Count(raw, "&")+1+ours)
	for text := range strings.SplitSeq(raw, "&") {
		name, value, _ := strings.Cut(text, "=")
		name, okName := percentDecode(name, ' ')
		value, okValue := percentDecode(value, ' ')
		lower := strings.ToLower(name)
		switch {
		case !okName || !okValue:
			return q, unsignable("the query has a % that begins no character", "encode % as %25")
		case !presignParams[lower]:
			if text != "" {
				q.items = append(q.items, queryItem{percentEncode(name, false), percentEncode(value, false)})
			}
			continue
		case q.presign == nil:
			q.presign = map[string]string{}
		}
		if _, twice := q.presign[lower]; twice {
			return q, unsignable("the query has a parameter of a signature twice", "presign the URL anew")
		}
		q.presign[lower] = value
	}
	if q.presign != nil {
		q.raw = withoutPresign(raw)
	}
	return q, nil
}

// withoutPresign takes the parameters of presigning out of a raw query. What else stands there stays byte for byte.
func withoutPresign(raw string) string {
	kept := slices.DeleteFunc(strings.Split(raw, "&"), func(item string) bool {
		name, _, _ := strings.Cut(item, "=")
		name, _ = percentDecode(name, ' ')
		return presignParams[strings.ToLower(name)]
	})
	return strings.Join(kept, "&")
}
