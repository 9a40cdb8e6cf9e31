# imds-enforcer from Terraform: uploads what `make package` built, and deploys its plain CloudFormation
# template. It states no resource of the stack: the template does. One Region; the bucket must be in it.

terraform {
  required_version = ">= 1.3"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.0"
    }
  }
}

variable "bucket" {
  description = "A bucket of the stack's Region, best with versions, that only deployers write to."
  type        = string
}

variable "parameters" {
  description = "Parameters of the template by their names; EnforceSince must be among them."
  type        = map(string)
}

variable "built" {
  description = "The folder that make package writes to."
  type        = string
  default     = "../../target"
}

data "aws_s3_bucket" "artifacts" {
  bucket = var.bucket
}

resource "aws_s3_object" "code" {
  bucket      = var.bucket
  key         = "imds-enforcer/${filesha256("${var.built}/imds-enforcer.zip")}.zip"
  source      = "${var.built}/imds-enforcer.zip"
  source_hash = filesha256("${var.built}/imds-enforcer.zip")

  # A stack whose update fails goes back to the object before.
  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_s3_object" "template" {
  bucket      = var.bucket
  key         = "imds-enforcer/${filesha256("${var.built}/cloudformation.json")}.json"
  source      = "${var.built}/cloudformation.json"
  source_hash = filesha256("${var.built}/cloudformation.json")

  # A stack whose update fails goes back to the object before.
  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_cloudformation_stack" "imds_enforcer" {
  name         = "imds-enforcer"
  template_url = "https://${data.aws_s3_bucket.artifacts.bucket_regional_domain_name}/${aws_s3_object.template.key}"
  capabilities = ["CAPABILITY_IAM"]

  parameters = merge(var.parameters, {
    CodeBucket  = var.bucket
    CodeKey     = aws_s3_object.code.key
    CodeVersion = aws_s3_object.code.version_id == "null" ? "" : aws_s3_object.code.version_id
  })
}

output "outputs" {
  description = "The outputs of the stack."
  value       = aws_cloudformation_stack.imds_enforcer.outputs
}
