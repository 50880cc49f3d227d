package driver

import (
	"context"
	"slices"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/juicefs-csi/driver/services/controller/internal/deletion"
)

const provisioned = "pvc-5a8b2c1e-0001-4c6e-9d9c-1f2a3b4c5d6e"

type recorder struct {
	removed []deletion.Volume
}

func (r *recorder) Remove(_ context.Context, v deletion.Volume) error {
	r.removed = append(r.removed, v)
	return nil
}

func capability(mode csi.VolumeCapability_AccessMode_Mode) []*csi.VolumeCapability {
	return []*csi.VolumeCapability{{
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}},
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: mode},
	}}
}

func writable() []*csi.VolumeCapability {
	return capability(csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER)
}

func createRequest(name string, size int64) *csi.CreateVolumeRequest {
	return &csi.CreateVolumeRequest{
		Name: name, VolumeCapabilities: writable(), CapacityRange: &csi.CapacityRange{RequiredBytes: size},
		Parameters: map[string]string{"juicefs/mount-cpu-limit": "1"},
	}
}

func TestCreateVolume(t *testing.T) {
	controller := &Controller{}
	for range 2 {
		response, err := controller.CreateVolume(t.Context(), createRequest("pvc-1", 1<<30))
		if err != nil {
			t.Fatal(err)
		}
		got := response.GetVolume()
		if got.GetVolumeId() != "pvc-1" || got.GetCapacityBytes() != 1<<30 || got.GetVolumeContext()["subPath"] != "pvc-1" ||
			got.GetVolumeContext()["capacity"] != "1073741824" || got.GetVolumeContext()["juicefs/mount-cpu-limit"] != "1" {
			t.Errorf("got %v", got)
		}
	}
	if _, err := controller.CreateVolume(t.Context(), createRequest("pvc-1", 2<<30)); !errdefs.IsAlreadyExists(err) {
		t.Errorf("another capacity: got %v, want already exists", err)
	}
	if _, err := controller.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: "pvc-1"}); err != nil {
		t.Fatal(err)
	}
	if _, err := controller.CreateVolume(t.Context(), createRequest("pvc-1", 2<<30)); err != nil {
		t.Errorf("another capacity after the deletion: %v", err)
	}
}

func TestCreateVolumeRefuses(t *testing.T) {
	good := map[string]string{"name": "myjfs", "metaurl": "redis://host/1"}
	for name, change := range map[string]func(*csi.CreateVolumeRequest){
		"no name":         func(r *csi.CreateVolumeRequest) { r.Name = "" },
		"no capabilities": func(r *csi.CreateVolumeRequest) { r.VolumeCapabilities = nil },
		"no access type": func(r *csi.CreateVolumeRequest) {
			r.VolumeCapabilities[0].AccessType = nil
		},
		"block": func(r *csi.CreateVolumeRequest) {
			r.VolumeCapabilities[0].AccessType = &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}
		},
		"read-only": func(r *csi.CreateVolumeRequest) {
			r.VolumeCapabilities = capability(csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY)
		},
		"content":      func(r *csi.CreateVolumeRequest) { r.VolumeContentSource = &csi.VolumeContentSource{} },
		"path pattern": func(r *csi.CreateVolumeRequest) { r.Parameters["pathPattern"] = "x" },
		"bad secret":   func(r *csi.CreateVolumeRequest) { r.Secrets = map[string]string{"name": "x"} },
		"bad option": func(r *csi.CreateVolumeRequest) {
			r.Secrets = good
			r.VolumeCapabilities[0].GetMount().MountFlags = []string{"kernel_cache"}
		},
	} {
		request := createRequest("pvc-1", 1<<30)
		change(request)
		if _, err := new(Controller).CreateVolume(t.Context(), request); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: got %v, want an invalid argument", name, err)
		}
	}
}

func testPV(name string, attributes map[string]string) *corev1.PersistentVolume {
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PersistentVolumeSpec{
			MountOptions: []string{"subdir=x"},
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{
				Driver: "csi.juicefs.com", VolumeHandle: name, VolumeAttributes: attributes,
			}},
		},
	}
}

func TestDeleteVolume(t *testing.T) {
	client := fake.NewClientset(
		testPV("with-path", map[string]string{"subPath": "a/b"}),
		testPV("static", nil),
	)
	secret := map[string]string{"name": "myjfs"}
	for _, test := range []struct {
		id      string
		secret  map[string]string
		removes string
	}{
		{"with-path", secret, "a/b"},
		{"with-path", nil, ""},
		{"static", secret, ""},
		{provisioned, secret, provisioned},
		{"by-hand", secret, ""},
	} {
		remover := &recorder{}
		controller := &Controller{Remover: remover, Lookup: LookupBy(client, "csi.juicefs.com")}
		_, err := controller.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: test.id, Secrets: test.secret})
		got := ""
		if len(remover.removed) == 1 {
			got = remover.removed[0].Attributes["subPath"]
		}
		if err != nil || got != test.removes {
			t.Errorf("%s: got %v, removed %q, want %q", test.id, err, got, test.removes)
		}
	}
}

// A volume can be deleted before its PersistentVolume exists: an orchestrator
// may not be able to store it.
func TestDeleteVolumeBeforeItsPersistentVolume(t *testing.T) {
	remover := &recorder{}
	controller := &Controller{Remover: remover, Lookup: LookupBy(fake.NewClientset(), "csi.juicefs.com")}
	secret := map[string]string{"name": "myjfs", "metaurl": "redis://host/1"}
	request := createRequest("by-name", 1<<30)
	request.Parameters["juicefs/host-path"] = "/data"
	request.VolumeCapabilities[0].GetMount().MountFlags = []string{"subdir=x"}
	created, err := controller.CreateVolume(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	id := created.GetVolume().GetVolumeId()
	if _, err := controller.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: id, Secrets: secret}); err != nil {
		t.Fatal(err)
	}
	if len(remover.removed) != 1 {
		t.Fatalf("%d volumes were removed", len(remover.removed))
	}
	removed := remover.removed[0]
	if removed.Attributes["subPath"] != id || removed.Attributes["juicefs/host-path"] != "/data" ||
		!slices.Equal(removed.MountOptions, []string{"subdir=x"}) {
		t.Errorf("removed %v", removed)
	}
}

func TestDeleteVolumeWithoutKubernetes(t *testing.T) {
	controller := &Controller{}
	secret := map[string]string{"name": "myjfs"}
	_, err := controller.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: provisioned, Secrets: secret})
	if !errdefs.IsFailedPrecondition(err) {
		t.Errorf("got %v, want a failed precondition", err)
	}
	if _, err := controller.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("no id: got %v, want an invalid argument", err)
	}
}

func TestValidateVolumeCapabilities(t *testing.T) {
	controller := &Controller{Lookup: LookupBy(fake.NewClientset(testPV("known", nil)), "csi.juicefs.com")}
	validate := func(id string, capabilities []*csi.VolumeCapability) (bool, error) {
		response, err := controller.ValidateVolumeCapabilities(t.Context(),
			&csi.ValidateVolumeCapabilitiesRequest{VolumeId: id, VolumeCapabilities: capabilities})
		return response.GetConfirmed() != nil, err
	}
	if confirmed, err := validate("known", writable()); err != nil || !confirmed {
		t.Errorf("known: %t, %v", confirmed, err)
	}
	block := writable()
	block[0].AccessType = &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}
	if confirmed, err := validate("known", block); err != nil || confirmed {
		t.Errorf("block: %t, %v", confirmed, err)
	}
	if _, err := validate("unknown", writable()); !errdefs.IsNotFound(err) {
		t.Errorf("unknown: %v", err)
	}
	if _, err := validate("known", nil); !errdefs.IsInvalidArgument(err) {
		t.Errorf("no capabilities: %v", err)
	}
}

func TestRecentForgetsTheOldest(t *testing.T) {
	var recent recent
	for i := range maxRecent + 1 {
		if err := recent.add(string(rune(i+1)), made{capacity: 1}); err != nil {
			t.Fatal(err)
		}
	}
	_, first := recent.get(string(rune(1)))
	_, second := recent.get(string(rune(2)))
	if first || !second || len(recent.volumes) != maxRecent {
		t.Errorf("%d volumes are remembered", len(recent.volumes))
	}
}
