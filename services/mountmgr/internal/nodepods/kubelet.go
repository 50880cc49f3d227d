package nodepods

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
)

// answerLimit bounds kubelet's answer, which has about 10 KiB for each pod.
const answerLimit = 256 << 20

// KubeletOptions say where kubelet is and how it is asked.
type KubeletOptions struct {
	// Host is the node's address, and Port that of kubelet's API.
	Host, Port string
	// Insecure leaves kubelet's certificate unchecked; CAFile verifies it.
	Insecure bool
	CAFile   string
	// TokenFile holds the token of the service account, unless CertFile and
	// KeyFile are a client certificate.
	TokenFile, CertFile, KeyFile string
	// Timeout bounds one question.
	Timeout time.Duration
}

// Kubelet is the API of this node's kubelet.
type Kubelet struct {
	url     string
	client  *http.Client
	timeout time.Duration
}

// NewKubelet does not ask yet. Files are read anew when they change.
func NewKubelet(options KubeletOptions) (*Kubelet, error) {
	config := &rest.Config{
		TLSClientConfig: rest.TLSClientConfig{Insecure: options.Insecure},
		Proxy:           func(*http.Request) (*url.URL, error) { return nil, nil }, // It is on this node.
	}
	if !options.Insecure {
		config.CAFile = options.CAFile
	}
	if options.CertFile != "" {
		config.CertFile, config.KeyFile = options.CertFile, options.KeyFile
	} else {
		config.BearerTokenFile = options.TokenFile
	}
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("make the client of kubelet: %w", err)
	}
	// The token is for kubelet alone.
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &Kubelet{
		url:    "https://" + net.JoinHostPort(options.Host, options.Port) + "/pods",
		client: client, timeout: options.Timeout,
	}, nil
}

// List asks kubelet for its pods. errdefs.ErrPermissionDenied when it
// refuses.
func (k *Kubelet) List(ctx context.Context) (Pods, error) {
	ctx, cancel := context.WithTimeout(ctx, k.timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, k.url, http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("ask kubelet: %w", err)
	}
	response, err := k.client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("ask kubelet: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	switch response.StatusCode {
	case http.StatusOK:
	case http.StatusUnauthorized, http.StatusForbidden:
		return nil, fmt.Errorf("%s: %s: %w", k.url, response.Status, errdefs.ErrPermissionDenied)
	default:
		return nil, fmt.Errorf("%s: %s: %w", k.url, response.Status, errdefs.ErrUnavailable)
	}
	pods, err := decode(&io.LimitedReader{R: response.Body, N: answerLimit})
	if err != nil {
		return nil, fmt.Errorf("decode the answer of %s: %w", k.url, err)
	}
	return pods, nil
}

// pod is the part of a pod that counts.
type pod struct {
	Metadata struct {
		UID               types.UID    `json:"uid"`
		Namespace         string       `json:"namespace"`
		Name              string       `json:"name"`
		DeletionTimestamp *metav1.Time `json:"deletionTimestamp"`
	} `json:"metadata"`
	Status struct {
		Phase corev1.PodPhase `json:"phase"`
	} `json:"status"`
}

// errNoList says that an answer is something else than a list of pods.
var errNoList = errors.New("it is no list of pods")

// decode reads a list pod by pod, so that it need not fit into memory.
func decode(source io.Reader) (Pods, error) {
	decoder := json.NewDecoder(source)
	if token, err := decoder.Token(); err != nil || token != json.Delim('{') {
		return nil, errors.Join(errNoList, err)
	}
	pods := make(Pods)
	listed := false
	for decoder.More() {
		key, err := decoder.Token()
		if err != nil {
			return nil, err
		}
		if key != "items" {
			var other json.RawMessage
			if err := decoder.Decode(&other); err != nil {
				return nil, err
			}
			continue
		}
		if err := decodeItems(decoder, pods); err != nil {
			return nil, err
		}
		listed = true
	}
	if _, err := decoder.Token(); err != nil { // A cut answer is no answer.
		return nil, err
	}
	if !listed {
		return nil, errNoList
	}
	return pods, nil
}

func decodeItems(decoder *json.Decoder, pods Pods) error {
	begin, err := decoder.Token()
	if err != nil || begin == nil { // null: no pods
		return err
	}
	if begin != json.Delim('[') {
		return errNoList
	}
	for decoder.More() {
		var found pod
		if err := decoder.Decode(&found); err != nil {
			return err
		}
		pods[found.Metadata.UID] = PodState{
			Namespace: found.Metadata.Namespace, Name: found.Metadata.Name,
			Phase: found.Status.Phase, Deleting: found.Metadata.DeletionTimestamp != nil,
		}
	}
	_, err = decoder.Token()
	return err
}
