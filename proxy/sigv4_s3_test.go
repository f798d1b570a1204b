//go:build linux

package proxy

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"testing"

	"github.com/credproxy/credproxy/internal/testneed"
)

// An S3 server that checks every signature, of requests, presigned URLs, chunks and trailers, has no complaint. It
// refuses the same requests when they come with the client's own signature.
func TestSigV4AgainstAnS3Server(t *testing.T) {
	t.Parallel()
	program, python := testneed.Program(t, "versitygw"), testneed.PythonModule(t, "boto3")
	ca := newTestCA(t, "upstream")
	cert, key := ca.saveLeaf(t, "s3.localhost")
	port := unusedPort(t)
	cmd := exec.Command(program, "--port", "127.0.0.1:"+port, "--cert", cert, "--key", key, "posix", "--sidecar", serverFolder(t), serverFolder(t)) // not every file system has attributes
	cmd.Env = []string{"ROOT_ACCESS_KEY_ID=AKIDREAL", "ROOT_SECRET_ACCESS_KEY=" + canary}
	runServer(t, port, cmd)
	const rule = "  - name: s3\n    match: {host: s3.localhost, port: %s}\n    inject: {type: aws_sigv4, access_key_id: %q, secret_access_key: %q}\n"
	p := startProxy(t, ca, fmt.Sprintf(rule, port, secretFile(t, "AKIDREAL"), secretFile(t, canary)))
	url := "https://s3.localhost:" + port
	if out := runClient(t, p, python, "testdata/boto3_s3.py", url); string(out) != "done\n" {
		t.Errorf("boto3:\n%s", out)
	}

	whole := bytes.Repeat([]byte("0123456789abcdef"), 20_000)
	short := whole[:100] // the server refuses without reading, and what is not read yet when it closes can cost the answer
	kinds := []string{signedChunks, signedChunks + "-TRAILER", "UNSIGNED-PAYLOAD", "STREAMING-UNSIGNED-PAYLOAD-TRAILER", ""}
	put := func(p *testProxy, i int, body []byte, want int) {
		t.Helper()
		kind, coded := kinds[i], bytes.NewBuffer(nil)
		req, err := http.NewRequestWithContext(t.Context(), "PUT", url+fmt.Sprintf("/bucket/k%%20%d", i), nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header = http.Header{"Authorization": {awsPlaceholder}, "X-Amz-Date": {"20300101T000000Z"}}
		if kind != "" {
			req.Header["X-Amz-Content-Sha256"] = []string{kind}
		}
		if strings.HasPrefix(kind, "STREAMING") {
			req.Header["Content-Encoding"], req.Header["X-Amz-Decoded-Content-Length"] = []string{"aws-chunked"}, []string{fmt.Sprint(len(body))}
			signature := ""
			if kind != "STREAMING-UNSIGNED-PAYLOAD-TRAILER" {
				signature = ";chunk-signature=" + zeroSignature
			}
			for part := body; ; part = part[min(65536, len(part)):] {
				n := min(65536, len(part))
				fmt.Fprintf(coded, "%x%s\r\n%s", n, signature, part[:n])
				if n == 0 {
					break
				}
				coded.WriteString("\r\n")
			}
			if strings.HasSuffix(kind, "-TRAILER") {
				req.Header["X-Amz-Trailer"] = []string{"x-amz-checksum-crc32"}
				sum := binary.BigEndian.AppendUint32(nil, crc32.ChecksumIEEE(body))
				coded.WriteString("x-amz-checksum-crc32:" + base64.StdEncoding.EncodeToString(sum) + "\r\n")
				if signature != "" {
					coded.WriteString("x-amz-trailer-signature:" + zeroSignature + "\r\n")
				}
			}
			coded.WriteString("\r\n")
		} else {
			coded.Write(body)
		}
		req.Body, req.ContentLength = io.NopCloser(coded), int64(coded.Len())
		resp, err := p.client(t, false).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if text, err := readAll(resp); err != nil || resp.StatusCode != want {
			t.Errorf("%q: %s %s %v, want %d", kind, resp.Status, text, err, want)
		}
	}
	pass := startProxy(t, ca, fmt.Sprintf("  - name: s3\n    match: {host: s3.localhost, port: %s}\n", port))
	wrong := startProxy(t, ca, fmt.Sprintf(rule, port, secretFile(t, "AKIDREAL"), secretFile(t, "another")))
	for i, kind := range kinds {
		put(pass, i, short, 403)
		put(wrong, i, short, 403)
		put(p, i, whole, 200)
		req, err := http.NewRequestWithContext(t.Context(), "GET", url+fmt.Sprintf("/bucket/k%%20%d", i), nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", awsPlaceholder)
		resp, err := p.client(t, false).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := readAll(resp); err != nil || got != string(whole) {
			t.Errorf("%q: %d bytes came back, %v, want %d", kind, len(got), err, len(whole))
		}
	}
}
