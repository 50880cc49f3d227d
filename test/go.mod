module github.com/juicefs-csi/driver/test

go 1.26.0

require (
	github.com/juicefs-csi/driver/libs v0.0.0
	github.com/juicefs-csi/driver/proto v0.0.0
	k8s.io/api v0.37.2
	k8s.io/apimachinery v0.37.2
	k8s.io/client-go v0.37.2
	google.golang.org/grpc v1.85.0
	google.golang.org/protobuf v1.36.12
	github.com/container-storage-interface/spec v1.13.0
	github.com/kubernetes-csi/csi-test/v5 v5.6.0
	golang.org/x/sys v0.48.0
	sigs.k8s.io/yaml v1.6.0
	github.com/spf13/cobra v1.10.2
	golang.org/x/sync v0.23.0
)

replace (
	github.com/juicefs-csi/driver/libs => ../libs
	github.com/juicefs-csi/driver/proto => ../proto
)
