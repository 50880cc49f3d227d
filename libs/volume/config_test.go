package volume

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
)

func TestParseConfig(t *testing.T) {
	config, err := ParseConfig([]byte(`
enableSetQuota: false
enableKubeletListMountPod: true
mountPodPatch:
- ceMountImage: juicedata/mount:ce-v1.4.2
  pvcSelector:
    matchLabels: {disk: fast}
    matchName: claim
    matchStorageClassName: class
  nodeSelector:
    matchExpressions: [{key: gpu, operator: Exists}]
  cacheDirs:
  - {type: EmptyDir, sizeLimit: 1Gi, medium: Memory}
  startupProbe: {failureThreshold: 3}
  env:
  - {name: A, value: b}
  - {name: C, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
`))
	if err != nil {
		t.Fatal(err)
	}
	if config.setsQuota() || config.MountPodPatch[0].PVCSelector.MatchLabels["disk"] != "fast" {
		t.Errorf("got %+v", config)
	}
	want := []string{
		"enableKubeletListMountPod", "mountPodPatch[0].cacheDirs", "mountPodPatch[0].startupProbe", "mountPodPatch[0].env[1].valueFrom",
	}
	if diff := cmp.Diff(want, config.Unapplied()); diff != "" {
		t.Errorf("unapplied keys (-want +got):\n%s", diff)
	}
}

func TestParseConfigFaults(t *testing.T) {
	for text, want := range map[string]string{
		"enableSetQuta: true":                                                     `unknown field "enableSetQuta"`,
		"mountPodPatch: [{ceMountImages: x}]":                                     `unknown field "mountPodPatch[0].ceMountImages"`,
		"mountPodPatch: [{nodeSelector: {matchExpressions: [{key: a}]}}]":         "mountPodPatch[0].nodeSelector",
		"mountPodPatch: [{imagePullPolicy: Sometimes}]":                           "mountPodPatch[0].imagePullPolicy",
		"mountPodPatch: [{env: [{name: JFS_SUPERVISOR, value: a}]}]":              "mountPodPatch[0].env[0].name",
		"mountPodPatch: [{terminationGracePeriodSeconds: -1}]":                    "mountPodPatch[0].terminationGracePeriodSeconds",
		"mountPodPatch: [{resources: {limits: {cpu: much}}}]":                     "quantities",
		"mountPodPatch: [{}, {mountOptions: ['=a']}, {pvcSelector: {matchX: a}}]": `unknown field "mountPodPatch[2].pvcSelector.matchX"`,
	} {
		_, err := ParseConfig([]byte(text))
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want it to name %s", text, err, want)
		}
	}
}

func TestPatchSelectors(t *testing.T) {
	config, err := ParseConfig([]byte(`
mountPodPatch:
- labels: {all: "yes"}
  ceMountImage: all
- pvcSelector: {matchStorageClassName: class, matchLabels: {tier: gold}}
  ceMountImage: gold
- pvcSelector: {matchName: special}
  labels: {special: "yes"}
- nodeSelector: {matchLabels: {gpu: "true"}}
  mountOptions: ["cache-size=0"]
`))
	if err != nil {
		t.Fatal(err)
	}
	gold := map[string]string{"tier": "gold"}
	for name, test := range map[string]struct {
		in     Inputs
		image  string
		labels string
		option bool
	}{
		"nothing known":         {Inputs{}, "all", "all", false},
		"class without label":   {Inputs{StorageClass: "class"}, "all", "all", false},
		"label without class":   {Inputs{Claim: Object{Labels: gold}}, "all", "all", false},
		"class and label":       {Inputs{StorageClass: "class", Claim: Object{Labels: gold}}, "gold", "all", false},
		"name replaces labels":  {Inputs{Claim: Object{Name: "special"}}, "all", "special", false},
		"node selects by label": {Inputs{Node: Object{Labels: map[string]string{"gpu": "true"}}}, "all", "all", true},
	} {
		test.in.Config = config
		patch := patchFor(test.in)
		if patch.CEMountImage != test.image || patch.Labels[test.labels] != "yes" || len(patch.Labels) != 1 ||
			(len(patch.MountOptions) == 1) != test.option {
			t.Errorf("%s: got %+v", name, patch)
		}
	}
}
