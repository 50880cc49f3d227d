package nodepods

import (
	"context"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/util/cert"
)

const podList = `{"kind":"PodList","apiVersion":"v1","metadata":{"x":[1]},"items":[
  {"metadata":{"name":"one","namespace":"ns","uid":"u1","labels":{"a":"b"}},"spec":{"nodeName":"n"},"status":{"phase":"Running"}},
  {"metadata":{"name":"two","namespace":"ns","uid":"u2","deletionTimestamp":"2026-01-02T03:04:05Z"},"status":{"phase":"Succeeded"}}
]}`

// serve starts a kubelet; its certificate is in the file ca.
func serve(t *testing.T, handler http.HandlerFunc) (options KubeletOptions) {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	server.StartTLS()
	t.Cleanup(server.Close)
	address, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	host, port, err := net.SplitHostPort(address.Host)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	write := func(name string, content []byte) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	return KubeletOptions{
		Host: host, Port: port, Timeout: 10 * time.Second,
		CAFile: write("ca.crt", certificate), TokenFile: write("token", []byte("t0ken\n")),
	}
}

func newKubelet(t *testing.T, options KubeletOptions) *Kubelet {
	t.Helper()
	kubelet, err := NewKubelet(options)
	if err != nil {
		t.Fatal(err)
	}
	return kubelet
}

func TestKubelet(t *testing.T) {
	kubelet := newKubelet(t, serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/pods" || r.Header.Get("Authorization") != "Bearer t0ken" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_, _ = io.WriteString(w, podList)
	}))
	got, err := kubelet.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := Pods{
		"u1": {Namespace: "ns", Name: "one", Phase: corev1.PodRunning},
		"u2": {Namespace: "ns", Name: "two", Phase: corev1.PodSucceeded, Deleting: true},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestKubeletsFailures(t *testing.T) {
	answer := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}
	}
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		cause   string
	}{
		"not signed in": {answer(http.StatusUnauthorized, "no"), causeRefused},
		"no right":      {answer(http.StatusForbidden, "no"), causeRefused},
		"broken":        {answer(http.StatusInternalServerError, podList), causeOther},
		"elsewhere":     {http.RedirectHandler("/other", http.StatusFound).ServeHTTP, causeOther},
		"cut":           {answer(http.StatusOK, podList[:len(podList)-1]), causeOther},
		"cut in a pod":  {answer(http.StatusOK, podList[:200]), causeOther},
		"empty":         {answer(http.StatusOK, ""), causeOther},
		"no list":       {answer(http.StatusOK, `{"kind":"Status"}`), causeOther},
		"no object":     {answer(http.StatusOK, `[]`), causeOther},
		"odd items":     {answer(http.StatusOK, `{"items":{}}`), causeOther},
	} {
		t.Run(name, func(t *testing.T) {
			pods, err := newKubelet(t, serve(t, c.handler)).List(t.Context())
			if err == nil || pods != nil || causeOf(err) != c.cause {
				t.Errorf("pods %v, error %v of cause %s, want %s", pods, err, causeOf(err), c.cause)
			}
		})
	}
}

func TestAKubeletWithoutPods(t *testing.T) {
	for _, list := range []string{`{"items":[]}`, `{"items":null}`} {
		pods, err := newKubelet(t, serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, list) })).List(t.Context())
		if err != nil || len(pods) != 0 {
			t.Errorf("%s: %v, %v", list, pods, err)
		}
	}
}

func TestKubeletThatIsNotOurs(t *testing.T) {
	options := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, podList) })
	trusted := options.CAFile
	options.CAFile = selfSigned(t)
	if _, err := newKubelet(t, options).List(t.Context()); causeOf(err) != causeCertificate {
		t.Errorf("an unknown certificate: %v", err)
	}
	options.Insecure = true
	if pods, err := newKubelet(t, options).List(t.Context()); err != nil || len(pods) != 2 {
		t.Errorf("insecure: %v, %v", pods, err)
	}
	options.Insecure, options.CAFile = false, trusted
	if _, err := newKubelet(t, options).List(t.Context()); err != nil {
		t.Errorf("trusted: %v", err)
	}
	options.CAFile = filepath.Join(t.TempDir(), "none")
	if _, err := NewKubelet(options); err == nil {
		t.Error("no fault of a CA bundle that is not there")
	}
}

// selfSigned is a certificate that has signed nothing.
func selfSigned(t *testing.T) string {
	t.Helper()
	certificate, _, err := cert.GenerateSelfSignedCertKey("other", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "other.crt")
	if err := os.WriteFile(path, certificate, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestAKubeletThatDoesNotAnswer(t *testing.T) {
	release := make(chan struct{})
	options := serve(t, func(http.ResponseWriter, *http.Request) { <-release })
	t.Cleanup(func() { close(release) })
	options.Timeout = 20 * time.Millisecond
	_, err := newKubelet(t, options).List(t.Context())
	if causeOf(err) != causeTimeout || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}

func TestInformer(t *testing.T) {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "one", Namespace: "ns", UID: "u1", Annotations: map[string]string{"much": "text"}},
		Spec:       corev1.PodSpec{NodeName: "n", Containers: []corev1.Container{{Name: "c"}}},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning},
	}
	client := fake.NewClientset(pod)
	informer := NewInformer(client, "n")
	defer informer.Stop()
	for range 2 {
		pods, err := informer.List(t.Context())
		if err != nil || pods["u1"] != (PodState{Namespace: "ns", Name: "one", Phase: corev1.PodRunning}) {
			t.Fatalf("%v, %v", pods, err)
		}
	}
	kept, _ := informer.store.List()[0].(*corev1.Pod)
	if kept.Annotations != nil || kept.Spec.Containers != nil {
		t.Errorf("kept %v", kept)
	}
	list, ok := client.Actions()[0].(clienttesting.ListAction)
	if !ok || list.GetListRestrictions().Fields.String() != "spec.nodeName=n" {
		t.Errorf("asked for %v", client.Actions()[0])
	}
	informer.Stop()
	informer.Stop()
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := informer.List(ended); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "node n") {
		t.Errorf("after the end: %v", err)
	}
}
