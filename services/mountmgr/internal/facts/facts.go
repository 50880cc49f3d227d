// Package facts reads from Kubernetes what the settings of a mount depend on
// and a publish request does not say: the volume's claim and StorageClass, the
// labels of the node, and the application pod.
package facts

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/juicefs-csi/driver/libs/volume"
)

const (
	// readTimeout bounds all that is read for one publish.
	readTimeout = 2 * time.Second
	// requestLimit is how many requests one publish may make here; the fourth
	// one makes the mount pod.
	requestLimit = 3
	// ephemeralAttribute marks volumes that are part of a pod, without a
	// PersistentVolume.
	ephemeralAttribute = "csi.storage.k8s.io/ephemeral"
)

// Volume is what Kubernetes knows of a volume; its zero value is that of one
// without a claim.
type Volume struct {
	// Name is that of the PersistentVolume.
	Name         string
	Claim        volume.Object
	StorageClass string
	// ClassTemplatesSecret is true when volumes of the StorageClass may have
	// different Secrets, or when it is not there any more to tell.
	ClassTemplatesSecret bool
}

// Request names a volume by what kubelet says about it.
type Request struct {
	VolumeID   string
	TargetPath string
	Attributes map[string]string
	// Namespace and Pod are the application pod.
	Namespace, Pod string
	// Class asks for ClassTemplatesSecret too.
	Class bool
	// Live says that a mount of the volume was made by what was read before:
	// that counts, however old it is.
	Live bool
}

// Source reads facts of volumes and pods. It is safe for concurrent use.
type Source struct {
	client     kubernetes.Interface
	driver     string
	kubeletDir string
	cache      cache
}

// NewSource makes no request yet. driver is the name of the CSI driver.
func NewSource(client kubernetes.Interface, driver, kubeletDir string) *Source {
	return &Source{client: client, driver: driver, kubeletDir: strings.TrimSuffix(kubeletDir, "/"), cache: newCache()}
}

// Volume returns what is known of a volume. It makes no request when that was
// read within the last minute, else at most three, in 2 s. The error says what
// could not be read; what could is returned with it.
func (s *Source) Volume(ctx context.Context, request Request) (Volume, error) {
	if request.Attributes[ephemeralAttribute] == "true" {
		return Volume{}, nil
	}
	return s.cache.get(request, func() (Volume, error) {
		// Others may wait for the same answer.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readTimeout)
		defer cancel()
		reading := reading{source: s, request: request, left: requestLimit}
		return reading.volume(ctx)
	})
}

// App returns an application pod as it is now, in 2 s.
func (s *Source) App(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	pod, err := s.client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("read pod %s/%s: %w", namespace, name, native(err))
	}
	return pod, nil
}

// volumeName is the PersistentVolume's name in a target path of kubelet:
// <kubelet dir>/pods/<uid>/volumes/kubernetes.io~csi/<name>/mount.
func (s *Source) volumeName(target string) string {
	below, found := strings.CutPrefix(target, s.kubeletDir+"/pods/")
	if !found {
		return ""
	}
	elements := strings.Split(below, "/")
	if len(elements) != 5 || elements[1] != "volumes" || elements[2] != "kubernetes.io~csi" || elements[4] != "mount" {
		return ""
	}
	return filepath.Base(elements[3])
}

// native gives errors of the API the sentinel that decides how long they count.
func native(err error) error {
	switch {
	case apierrors.IsNotFound(err):
		return fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	case apierrors.IsForbidden(err), apierrors.IsUnauthorized(err):
		return fmt.Errorf("%w: %w", err, errdefs.ErrPermissionDenied)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("no answer within %s: %w", readTimeout, err)
	}
	return err
}
